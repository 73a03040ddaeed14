"""ComfyUI's syntax against what ComfyUI itself gave."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipe_numbers import as_lists, prompts
from refusals import outcome

from mlxdiff.errors import RequestError
from mlxdiff.text.syntax import comfyui
from mlxdiff.text.syntax.prompt import MAX_LETTERS, Fragment, Run


@pytest.mark.parametrize("case", prompts("comfy_attention"), ids=lambda case: case["prompt"])
def test_weights_are_comfyuis(case):
    assert as_lists(comfyui.fragments(case["prompt"])) == case["result"]


def test_a_prompt_is_one_part_and_one_entry():
    prompt = comfyui.parse("a AND [b|c] <lora:x:1> (d:1.2)", Run(20))
    (part,) = prompt.parts
    (entry,) = part.entries
    assert entry.pieces == (Fragment("a AND [b|c] <lora:x:1> "), Fragment("d", 1.2))
    assert prompt.networks == ()


@given(st.text(st.characters(exclude_characters="()", exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_text_without_brackets_is_kept(text):
    # ComfyUI's own place holders for escaped brackets are taken for brackets there, too.
    text = text.replace("\0", "")
    assert comfyui.fragments(text) == ((Fragment(text),) if text else ())


@given(st.text(st.sampled_from(list("()\\:1.5ab ")), max_size=60))
def test_anything_is_read(text):
    read = "".join(fragment.text for fragment in comfyui.fragments(text))
    assert [letter for letter in read if letter in "ab"] == [letter for letter in text if letter in "ab"]


@pytest.mark.parametrize("text", ["(" * MAX_LETTERS, "(" * 40_000 + ")" * 40_000, "(a" * 30_000 + ")" * 30_000])
def test_hostile_prompts_take_no_time(text):
    start = time.process_time()
    found = outcome(lambda: comfyui.fragments(text))
    assert not isinstance(found, RequestError) or "nested too deeply" in found.problem
    assert time.process_time() - start < 10


def test_a_prompt_that_is_too_long_is_refused():
    with pytest.raises(RequestError, match="10,000,000 characters"):
        comfyui.parse("a" * 10_000_000, Run(20))
