"""Sweeps as values: what --vary means, which cells there are, and what they share."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxdiff.batch import sweep
from mlxdiff.batch.sweep import MAX_VALUES, as_json, cells, parse_axis, varied_names
from mlxdiff.errors import RequestError
from mlxdiff.request import Lora, Request
from mlxdiff.request.declarations import Number, Setting, Text, declared, setting
from mlxdiff.request.structured import Structured

REQUEST = Request("an apple on a table", negative_prompt="a bad apple", seed=5, steps=3, guidance_scale=2.0)


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("steps=10,20,30", "steps", (10, 20, 30)),
        (" steps = 10 , 20", "steps", (10, 20)),
        ("guidance-scale=2..8+2", "guidance_scale", (2.0, 4.0, 6.0, 8.0)),
        ("cfg=2..9+3", "guidance_scale", (2.0, 5.0, 8.0)),
        ("cfg=0.1..0.5+0.1", "guidance_scale", (0.1, 0.2, 0.3, 0.4, 0.5)),
        ("guidance_scale=7.5", "guidance_scale", (7.5,)),
        ("seed=1..3", "seed", (1, 2, 3)),
        ("seed=3..1", "seed", (3, 2, 1)),
        ("steps=8..2-3", "steps", (8, 5, 2)),
        ("steps=4..4", "steps", (4,)),
        ("seed=1,5..7,9223372036854775807", "seed", (1, 5, 6, 7, 2**63 - 1)),
        ("guidance-end=0.25,1", "guidance_end", (0.25, 1.0)),
        ("guidance-start=0..0.4+0.2", "guidance_start", (0.0, 0.2, 0.4)),
        ("cache-interval=1..3", "cache_interval", (1, 2, 3)),
        ("token-merging=0.25..0.75+0.25", "token_merging", (0.25, 0.5, 0.75)),
        ("sampler=euler, heun", "sampler", ("euler", "heun")),
        ("prompt=apple,pear", "prompt", ("apple", "pear")),
        ('prompt=apple,"red, shiny",""', "prompt", ("apple", "red, shiny", "")),
        ('prompt="a ""big"" apple",it\'s', "prompt", ('a "big" apple', "it's")),
        ("prompt=apple,2..8", "prompt", ("apple", "2..8")),
        ("prompt=a=b,c", "prompt", ("a=b", "c")),
    ],
)
def test_axes(text, name, values):
    axis = parse_axis(text)
    assert (axis.name, axis.values) == (name, values)
    assert [type(value) for value in axis.values] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps", "has no values"),
        ("colour=red", "cannot vary 'colour'"),
        ("n_images=2", "cannot vary"),
        ("steps=", "is empty"),
        ("steps=1,,2", "is empty"),
        ("steps=1,", "is empty"),
        ("steps=1.5", "whole numbers"),
        ("steps=many", "no value for steps"),
        ("cfg=nan", "no value for guidance-scale"),
        ("cfg=1e3", "no value"),
        ("steps=1..", "not a range"),
        ("steps=..5", "not a range"),
        ("steps=1...5", "not a range"),
        ("steps=1..5+0", "It is a number above 0"),
        ("steps=1..5+", "It is a number above 0"),
        ("steps=1..5+-1", "It is a number above 0"),
        ("steps=1..5+x", "It is a number above 0"),
        ("steps=1..5-1", "away from 5"),
        ("steps=5..1+1", "away from 1"),
        ("steps=1..2+0.5", "whole numbers"),
        ("seed=0..9999999999999999999", f"more than {MAX_VALUES} values"),
        ("cfg=0..9+0.000000001", f"more than {MAX_VALUES} values"),
        ("seed=" + ",".join("1" * 5000), f"more than {MAX_VALUES} values"),
        ('prompt="apple', "not closed"),
        ('prompt="apple"s,b', "not closed"),
        ('prompt="",apple', "The first value"),
    ],
)
def test_what_is_no_axis_is_said(text, words):
    with pytest.raises(RequestError, match=words.replace("+", r"\+")):
        parse_axis(text)


@given(st.decimals(0, 20, places=3), st.decimals("0.001", 5, places=3), st.integers(0, MAX_VALUES - 1), st.booleans())
def test_ranges_are_exact_and_include_both_ends(low, step, count, down):
    high = low + count * step
    if high == low:
        return
    text = f"cfg={high}..{low}-{step}" if down else f"cfg={low}..{high}+{step}"
    expected = [float(Fraction(low) + i * Fraction(step)) for i in range(count + 1)]
    assert list(parse_axis(text).values) == (expected[::-1] if down else expected)


@given(st.text())
def test_any_text_is_an_axis_or_a_request_error(text):
    for name in ("steps", "cfg", "prompt"):
        try:
            axis = parse_axis(f"{name}={text}")
        except RequestError:
            continue
        assert 1 <= len(axis.values) <= MAX_VALUES


@given(st.lists(st.text(), min_size=1, max_size=20).filter(lambda values: values[0] != ""))
def test_quoted_values_are_any_text(values):
    text = ",".join('"' + value.replace('"', '""') + '"' for value in values)
    assert parse_axis(f"prompt={text}").values == tuple(values)


def test_labels_say_the_name_of_numbers_only():
    assert parse_axis("cfg=2,7.5").labels == ("guidance-scale 2", "guidance-scale 7.5")
    assert parse_axis("seed=12345678901").labels == ("seed 12345678901",)
    assert parse_axis("sampler=euler").labels == ("euler",)
    assert parse_axis("prompt=apple,pear").labels == ("apple", "pear")


def test_the_first_axis_is_the_columns_and_the_second_the_rows():
    found = cells(REQUEST, [parse_axis("steps=1,2,3"), parse_axis("sampler=euler,heun")])
    assert [(cell.row, cell.column) for cell in found] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert [(cell.request.steps, cell.request.sampler) for cell in found] == [
        (steps, sampler) for sampler in ("euler", "heun") for steps in (1, 2, 3)
    ]
    assert found[4].values == (2, "heun")
    assert found[4].request == replace(REQUEST, steps=2, sampler="heun")


def test_one_axis_is_one_row():
    assert [(cell.row, cell.column, cell.request.seed) for cell in cells(REQUEST, [parse_axis("seed=7,8")])] == [
        (0, 0, 7),
        (0, 1, 8),
    ]


def test_words_are_replaced_everywhere_in_both_prompts():
    request = replace(REQUEST, prompt="apple and apple")
    plum = cells(request, [parse_axis("prompt=apple,plum")])[1].request
    assert (plum.prompt, plum.negative_prompt) == ("plum and plum", "a bad plum")


def test_two_prompt_axes_do_not_replace_what_the_other_put_in():
    found = cells(Request("a cat on a dog"), [parse_axis("prompt=cat,dog"), parse_axis("prompt=dog,cat")])
    assert [cell.request.prompt for cell in found] == [
        "a cat on a dog",
        "a dog on a dog",
        "a cat on a cat",
        "a dog on a cat",
    ]


def test_a_word_is_plain_text_and_no_pattern():
    found = cells(Request("a (red) .* apple"), [parse_axis(r"prompt=(red) .*,\1 blue")])
    assert found[1].request.prompt == r"a \1 blue apple"


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ([], "0 things are varied"),
        (["steps=1", "seed=1", "cfg=1"], "3 things are varied"),
        (["steps=1,2", "steps=3,4"], "varied twice"),
        (["cfg=1,2", "guidance-scale=3,4"], "varied twice"),
        (["prompt=banana,plum"], "'banana' does not occur"),
        (["prompt=Apple,plum"], "does not occur"),
        (["steps=0,1"], "steps is 0"),
        (["sampler=euler,warp"], "no sampler 'warp'"),
        (["seed=1..100", "steps=1..50"], "5000 cells"),
        (["height=4"], "height is 4"),
        (["guidance-start=0.5,1"], "starts at 1 and ends at 1"),
        (["token-merging=0.5,0.9"], "token_merging is 0.9"),
    ],
)
def test_axes_that_cannot_be_rendered(axes, words):
    with pytest.raises(RequestError, match=words):
        cells(REQUEST, [parse_axis(axis) for axis in axes])


def test_every_setting_that_may_vary_is_an_axis():
    """Whoever declares a setting has it here: its name, and values as its kind reads them."""
    names = {item.name.replace("_", "-") for item in declared(Request) if item.vary and item.scope != "record"}
    assert {name for name in varied_names() if "." not in name} == names
    for text, values in (
        ("model=emoji,owner/name", ("emoji", "owner/name")),
        ("quantize=8,4", (8, 4)),
        ('dtype="",fp32', (None, "fp32")),
        ('negative-prompt="","ugly, dark"', ("", "ugly, dark")),
        ('sigmas="14.6,7,0","10,0"', ((14.6, 7.0, 0.0), (10.0, 0.0))),
        ("rng=torch,philox", ("torch", "philox")),
        ('vae="",other.safetensors', (None, "other.safetensors")),
    ):
        assert parse_axis(text).values == values


def test_a_setting_of_its_own_kind_is_read_and_shown_by_it(monkeypatch):
    @dataclass(frozen=True)
    class Lora:
        ref: str = setting(Text(), default=MISSING)
        scale: float = setting(Number(0, 10), default=1.0)

    made = Setting("lora", Structured(Lora), "", "Adapters", unset="none")
    monkeypatch.setitem(sweep.VARIED, "lora", made)
    axis = parse_axis('lora="","style,scale=0.5"')
    assert axis.values == (None, (Lora("style", 0.5),))
    assert axis.labels == ("lora none", "style,scale=0.5")
    assert as_json([axis], [axis.values[1]]) == {"lora": [{"ref": "style", "scale": 0.5}]}


def test_a_number_inside_a_setting_is_varied_in_all_its_values():
    request = replace(REQUEST, lora=("a,scale=0.5", "b"))
    axes = [parse_axis("lora.scale=0..1+0.5"), parse_axis('lora.text="",0')]
    found = cells(request, axes)
    assert [cell.request.lora for cell in found[2:4]] == [
        (Lora("a", 1.0), Lora("b", 1.0)),
        (Lora("a", 0.0, text=0.0), Lora("b", 0.0, text=0.0)),
    ]
    assert axes[0].labels == ("lora.scale 0", "lora.scale 0.5", "lora.scale 1")
    assert as_json(axes, found[1].values) == {"lora.scale": 0.5, "lora.text": None}
    with pytest.raises(RequestError, match=r"lora\.scale is varied, and there is no lora"):
        cells(REQUEST, axes[:1])


def test_a_negative_prompt_is_a_whole_value_that_no_word_is_replaced_in():
    axes = [parse_axis("prompt=apple,pear"), parse_axis('negative-prompt="","bad apple"')]
    assert [(cell.request.prompt, cell.request.negative_prompt) for cell in cells(REQUEST, axes)] == [
        ("an apple on a table", ""),
        ("an pear on a table", ""),
        ("an apple on a table", "bad apple"),
        ("an pear on a table", "bad apple"),
    ]


def test_another_model_has_no_revision_of_the_requests():
    request = replace(REQUEST, model="owner/a", revision="r")
    assert [cell.request.revision for cell in cells(request, [parse_axis("model=owner/a,owner/b")])] == [None, None]
