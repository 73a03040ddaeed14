"""The grammar of --where, held to Python's own evaluation and SQL's LIKE, and its errors."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlxdiff.culling import Picture, Where
from mlxdiff.culling.literals import Like
from mlxdiff.errors import RequestError
from mlxdiff.metadata import PictureInfo
from mlxdiff.request import Request

COMPARE = {"=": "==", "==": "==", "!=": "!=", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


def picture(**settings) -> Picture:
    return Picture(Path("out/a.png"), PictureInfo(Request(**settings), None, (64, 96), "PNG"), 1e9, 1234)


def chosen(expression: str, **settings) -> bool:
    return Where(expression).matches(picture(**settings))


numbers = st.integers(1, 6)
NUMBERS = ("steps", "seed", "hires_steps", "guidance_scale")
TEXTS = ("prompt", "negative_prompt", "hires_prompt")
letters = st.text("abAB é%_'", max_size=4)


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@st.composite
def leaves(draw) -> tuple[str, str]:
    """A condition, and what it is in Python, where what is missing is None."""
    kind = draw(st.sampled_from(["number", "text", "order", "chain", "in", "contains", "missing", "names"]))
    name = draw(st.sampled_from(NUMBERS))
    text = draw(st.sampled_from(TEXTS))
    sign = draw(st.sampled_from(sorted(COMPARE)))
    number, other, word = draw(numbers), draw(numbers), draw(letters)
    negation = draw(st.sampled_from(["", "not "]))
    if kind == "number":
        return f"{name} {sign} {number}", f"({name} is not None and {name} {COMPARE[sign]} {number})"
    if kind == "order":
        return f"{number} {sign} {name}", f"({name} is not None and {number} {COMPARE[sign]} {name})"
    if kind == "names":
        both = f"({name} is not None and seed is not None and {name} {COMPARE[sign]} seed)"
        return f"{name} {sign} seed", both
    if kind == "chain":
        return f"{number} < {name} <= {other}", f"({name} is not None and {number} < {name} <= {other})"
    if kind == "in":
        return (
            f"{name} {negation}in ({number}, {other})",
            f"({name} is not None and {name} {negation}in ({number}, {other}))",
        )
    if kind == "text":
        return f"{text} {sign} {quoted(word)}", f"({text} is not None and {text} {COMPARE[sign]} {word!r})"
    if kind == "contains":
        return (
            f"{text} {negation}contains {quoted(word)}",
            f"({text} is not None and {word.lower()!r} {negation}in {text}.lower())",
        )
    return f"{text} is {negation}missing", f"({text} is {negation}None)"


def joined(inner):
    words = st.sampled_from(["and", "or"])
    return st.one_of(
        inner.map(lambda one: (f"({one[0]})", f"({one[1]})")),
        inner.map(lambda one: (f"not {one[0]}", f"not {one[1]}")),
        st.tuples(inner, words, inner).map(
            lambda three: tuple(f"{three[0][i]} {three[1]} {three[2][i]}" for i in (0, 1))
        ),
    )


expressions = st.recursive(leaves(), joined, max_leaves=12)
maybe_number = st.none() | numbers
settings_ = st.fixed_dictionaries(
    {
        "prompt": letters,
        **dict.fromkeys(NUMBERS, maybe_number),
        **{name: st.none() | letters for name in TEXTS[1:]},
    }
)


@given(expressions, settings_)
def test_expressions_mean_what_they_mean_in_python(expression, values):
    ours, python = expression
    held = {name: value for name, value in values.items() if value is not None}
    expected = eval(python, {}, values)
    assert chosen(ours, **held) == expected, ours
    spaced = re.sub(r"('(?:[^']|'')*')|\s+", lambda match: match[1] or " \n\t", ours)
    assert chosen(spaced, **held) == expected
    parts = re.split(r"('(?:[^']|'')*')", ours)
    shouted = "".join(
        part if part[:1] == "'" else re.sub(r"\b(and|or|not|in|is|missing|contains)\b", _up, part) for part in parts
    )
    assert chosen(shouted, **held) == expected


def _up(word: re.Match[str]) -> str:
    return word[0].upper()


SQL = sqlite3.connect(":memory:")


@given(st.text("abAB%_.*\n", max_size=12), st.text("abAB%%__.*\n", max_size=8))
@example("ab", "a%b%")
@example("aba", "aba%aba")
def test_like_is_sqls(text, pattern):
    (expected,) = SQL.execute("SELECT ? LIKE ?", (text, pattern)).fetchone()
    assert Like(pattern).matches(text) == bool(expected)


@pytest.mark.parametrize(
    ("expression", "at", "problem"),
    [
        ("stpes > 20", 1, "no name 'stpes'"),
        ("steps > 20 and sede < 3", 16, "no name 'sede'"),
        ("steps > 'abc'", 7, "a number, is compared with the text 'abc'"),
        ("steps > '20'", 7, "a number"),
        ("prompt = 5", 8, "a text, is compared with the number 5"),
        ("'a' = 5", 5, "the text 'a' is compared with the number 5"),
        ("steps = seed and prompt < seed", 25, "prompt, a text, is compared with seed, a number"),
        ("sampler = euler", 11, "no name 'euler'"),
        ("sampler = 'eulr'", 11, "There is no sampler 'eulr'"),
        ("program = 'photoshop'", 11, "There is no program 'photoshop'"),
        ("steps contains '2'", 7, "is no text"),
        ("prompt contains 2", 17, "stands behind contains"),
        ("prompt contains prompt", 17, "stands behind contains"),
        ("date > 5", 6, "date, a date, is compared with the number 5"),
        ("date = 'today'", 8, "is no date"),
        ("date = '2026-02-30'", 8, "is no date"),
        ("date = '2026-13'", 8, "is no date"),
        ("date = '2026-01-00'", 8, "is no date"),
        ("date = '0000-01-01'", 8, "is no date"),
        ("steps", 1, "alone is no condition"),
        ("steps and seed = 1", 1, "alone is no condition"),
        ("steps >", 8, "the end stands where"),
        ("> 5", 1, "> stands where"),
        ("steps > 5 seed < 3", 11, "seed stands where and, or"),
        ("steps = 5 6", 11, "6 stands where and, or"),
        ("steps > 5 and", 14, "the end stands where"),
        ("and steps > 5", 1, "and stands where"),
        ("(steps > 5", 1, "opens that is not closed"),
        ("((steps > 5)", 1, "opens that is not closed"),
        ("steps > 5)", 10, "closes that was not opened"),
        ("()", 2, ") stands where"),
        ("(steps) > 5", 2, "alone is no condition"),
        ("steps in 5", 10, "stands behind in"),
        ("steps in ()", 11, ") stands where"),
        ("steps in (5 6)", 13, "6 stands in a list"),
        ("steps in (5,", 13, "the end stands where"),
        ("steps in (5, 'a')", 14, "is compared with the text 'a'"),
        ("steps is 5", 10, "5 stands behind is"),
        ("steps not = 5", 1, "is followed by not"),
        ("5 is missing", 1, "is never missing"),
        ("steps > 5 && seed = 1", 11, "'&' has no meaning"),
        ("steps > 5 | seed = 1", 11, "'|' has no meaning"),
        ("prompt ~ 'a'", 8, "'~' has no meaning"),
        ("prompt = 'a", 10, "a text begins that has no end"),
        ('prompt = "a', 10, "a text begins that has no end"),
        ("steps = 20x", 9, "neither a number nor a name"),
        ("steps = 1.2.3", 9, "neither a number nor a name"),
        ("seed = 11111111111111111111111111111111111111111", 8, "41 characters"),
        ("lora.foo = 1", 1, "no name 'lora.foo'"),
        ("steps.foo = 1", 1, "no name 'steps.foo'"),
        ("__class__ = 1", 1, "no name '__class__'"),
        ("hashes = 'a'", 1, "no name 'hashes'"),
        ("prompt like '" + "%" * 1001 + "'", 13, "a pattern has 1001 characters"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(expression, at, problem):
    with pytest.raises(RequestError) as error:
        Where(expression)
    assert error.value.problem.startswith(f"--where, character {at}: ")
    assert problem in error.value.problem
    assert error.value.exit_code == 2
    assert error.value.remedy


def test_a_name_that_is_close_is_named():
    for typed, meant in (("stpes", "steps"), ("guidence_scale", "guidance_scale"), ("lora.scal", "lora.scale")):
        with pytest.raises(RequestError, match=f"Did you mean {meant}\\?"):
            Where(f"{typed} = 1")
    with pytest.raises(RequestError, match="Text stands in quotes: 'euler'"):
        Where("sampler = euler")


@given(st.text(max_size=40) | st.text("ab ()'\"=<>!,.0123456789-andornotinlikesteps%_", max_size=60))
def test_any_text_is_an_expression_or_an_error_in_words(text):
    with contextlib.suppress(RequestError):
        Where(text).matches(picture(prompt="a"))


def test_depth_and_length_take_nothing_of_pythons_stack():
    deep = "(" * 50_000 + "not " * 10_000 + "steps = 3" + ")" * 50_000
    assert chosen(deep, steps=3)
    assert chosen(" or ".join(["seed = 9"] * 20_000 + ["steps = 3"]), steps=3)
    assert not chosen(f"steps in ({','.join(['7'] * 50_000)})", steps=3)


def test_no_pattern_hangs():
    text = "a" * 100_000 + "b"
    began = time.process_time()
    assert not Like("%a" * 499 + "%c").matches(text)
    assert not Like("%a_" * 300 + "c").matches(text)
    assert time.process_time() - began < 20, "backtracking takes longer than the universe has"
