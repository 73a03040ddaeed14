"""A1111's syntax against what A1111 itself gave."""

from __future__ import annotations

import math
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipe_numbers import as_lists, prompts
from refusals import outcome

from mlxdiff.errors import RequestError
from mlxdiff.text.syntax import a1111
from mlxdiff.text.syntax.prompt import MAX_LETTERS, Break, Fragment, Network, Run

RUN = Run(20)
MARKS = st.text(st.sampled_from(list("()[]:|\\<>ab 1.5-BREAKND\n=")), max_size=60)


@pytest.mark.parametrize("case", prompts("a1111_attention"), ids=lambda case: case["prompt"])
def test_weights_are_a1111s(case):
    if isinstance(case["result"], dict):
        with pytest.raises(RequestError, match="is no number"):
            a1111.attention(case["prompt"])
    else:
        assert as_lists(a1111.attention(case["prompt"])) == case["result"]


@pytest.mark.parametrize("case", prompts("a1111_and"), ids=lambda case: case["prompt"])
def test_sub_prompts_are_a1111s(case):
    assert [list(part) for part in a1111.split_parts(case["prompt"])] == case["result"]


@pytest.mark.parametrize("case", prompts("a1111_extra_networks"), ids=lambda case: case["prompt"])
def test_extra_networks_are_a1111s(case):
    text, networks = a1111.split_networks(case["prompt"])
    found: dict[str, list] = {}
    for network in networks:
        entry = {"positional": list(network.positional), "named": dict(network.named)}
        found.setdefault(network.kind, []).append(entry)
    assert text == case["stripped"]
    assert found == case["networks"]


def test_a_prompt_is_read_in_a1111s_order():
    """Networks first, then AND, then schedules, then weights."""
    prompt = a1111.parse("(a [b:c:0.5]:1.2)<lora:x:0.8> AND d :0.5", RUN)
    first, second = prompt.parts
    assert prompt.networks == (Network("lora", ("x", "0.8")),)
    assert [entry.last_call for entry in first.entries] == [10, 20]
    assert [entry.pieces for entry in first.entries] == [(Fragment("a b", 1.2),), (Fragment("a c", 1.2),)]
    assert (first.weight, second.weight) == (1.0, 0.5)
    assert second.entries[0].pieces == (Fragment(" d"),)


def test_a_negative_prompt_has_neither_networks_nor_sub_prompts():
    prompt = a1111.parse("a AND b <lora:x:1> (c)", RUN, negative=True)
    assert prompt.networks == ()
    assert prompt.parts[0].entries[0].pieces == (Fragment("a AND b <lora:x:1> "), Fragment("c", 1.1))


def test_an_entry_serves_a_call_past_its_last_step():
    """A1111 counts calls from 0 and steps from 1, so that the first of [a|b] is said twice and the last never."""
    (part,) = a1111.parse("[a|b]", Run(4)).parts
    assert [part.entry(call).text for call in range(5)] == ["a", "a", "b", "a", "b"]
    assert part.entry(9).text == "a"


def test_break_in_brackets_is_a_word():
    assert Break() in a1111.attention("a BREAK b")
    assert Break() not in a1111.attention("(a BREAK b)")


def test_without_emphasis_everything_is_text():
    assert a1111.literal("(a) [b] BREAK") == (Fragment("(a) [b] BREAK"),)


@given(st.text(st.characters(exclude_characters="()[]:|\\<>", exclude_categories=["Cs"]), max_size=40))
def test_text_without_marks_is_kept(text):
    text = re.sub(r"BREAK|AND", "", text)
    prompt = a1111.parse(text, RUN)
    (entry,) = prompt.parts[0].entries
    assert entry.pieces == (Fragment(text.rstrip()),)
    assert entry.last_call == 20


@given(MARKS)
def test_anything_is_read_or_refused_in_words(text):
    prompt = outcome(lambda: a1111.parse(text, RUN))
    if isinstance(prompt, RequestError):
        assert prompt.problem.endswith(".")
        assert prompt.remedy.endswith(".")
        return
    for part in prompt.parts:
        calls = [entry.last_call for entry in part.entries]
        assert calls == sorted(set(calls))
        assert calls[-1] == 20
        assert all(part.entry(call) in part.entries for call in range(25))


@given(MARKS)
def test_weights_only_move_marks(text):
    """All that attention takes away is brackets, backslashes, weights, and the white space around BREAK."""
    pieces = outcome(lambda: a1111.attention(text))
    if isinstance(pieces, RequestError):
        return
    kept = "".join("BREAK" if isinstance(piece, Break) else piece.text for piece in pieces)
    letters = [letter for letter in kept if letter.isalpha()]
    assert letters == [letter for letter in text if letter.isalpha()]


HOSTILE = {
    "letters": "a" * (MAX_LETTERS + 1),
    "ten megabytes": "a " * 5_000_000,
    "open round brackets": "(" * MAX_LETTERS,
    "open brackets and letters": "(a " * (MAX_LETTERS // 3),
    "open brackets of both kinds": "([" * (MAX_LETTERS // 2),
    "nested schedules": "[" * 20_000 + "a" + ":1]" * 20_000,
    "a long alternation": "[" + "|" * (MAX_LETTERS - 2) + "]",
    "a million entries": "[" + "a|" * 1_000_000 + "]",
    "white space": " " * MAX_LETTERS,
    "colons and spaces": ": " * (MAX_LETTERS // 2),
    "breaks": "BREAK " * (MAX_LETTERS // 6),
    "ands": "AND " * (MAX_LETTERS // 4),
    "open networks": "<a:" * (MAX_LETTERS // 3),
    "closed networks": "<a:>" * (MAX_LETTERS // 4),
    "backslashes": "\\" * MAX_LETTERS,
    "digits": "(a:" + "1" * (MAX_LETTERS - 4) + ")",
    "a step past all numbers": "[a:" + "1" * (MAX_LETTERS - 5) + "]",
    "schedules among brackets": "[a:5][[" * (MAX_LETTERS // 7),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_prompts_take_no_time(text):
    start = time.process_time()
    found = outcome(lambda: a1111.parse(text, Run(150)))
    assert not isinstance(found, RequestError) or len(str(found)) < 300
    assert time.process_time() - start < 10


def test_weights_may_be_infinite_here():
    (piece,) = a1111.attention("(a:" + "9" * 400 + ")")
    assert isinstance(piece, Fragment)
    assert math.isinf(piece.weight)


def test_many_sub_prompts_are_refused():
    with pytest.raises(RequestError, match="101 sub-prompts"):
        a1111.parse(" AND ".join("a" * 101), RUN)


@pytest.mark.parametrize("prompt", [None, 3, ["a"]])
def test_only_text_is_parsed(prompt):
    with pytest.raises(RequestError, match="not text"):
        a1111.parse(prompt, RUN)


def test_a_sub_prompt_of_a_weight_that_overflows_is_refused():
    with pytest.raises(RequestError, match=r"The weight of ' b ' is inf"):
        a1111.split_parts(f"a AND b :{'9' * 400}")
