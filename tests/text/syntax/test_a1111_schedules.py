"""A1111's schedules against what A1111 and its Earley parser gave."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipe_numbers import prompts

from mlxdiff.errors import RequestError
from mlxdiff.text.syntax.a1111_schedules import schedule
from mlxdiff.text.syntax.prompt import Run


def lists(text: str, calls: int, first: int | None = None, **options: bool) -> list[list]:
    return [list(entry) for entry in schedule(text, Run(calls, first), **options)]


@pytest.mark.parametrize("case", prompts("a1111_schedules"), ids=lambda case: case["prompt"])
def test_schedules_are_a1111s(case):
    text = case["prompt"]
    assert lists(text, 10) == case["steps10"]
    assert lists(text, 20) == case["steps20"]
    assert lists(text, 10, 20) == case["hires_base20_hires10"]
    assert lists(text, 20, old_timelines=True) == case["old_steps20"]


def test_old_timelines_count_the_first_passs_steps_in_the_second():
    assert lists("[a:b:0.5]", 10, 20, old_timelines=True) == lists("[a:b:0.5]", 20, old_timelines=True)


# Given by lark 1.3.1 with A1111's grammar, for 6 steps; G stands for [x:5].
LEFT_OVER = {
    "[G": "[",
    "G]]": "[x:5]]]",
    "G]]]": "]]]",
    "G[": "[",
    "aG[": "a[",
    "GG]]": "[x:5]]]",
    "G[G[[G": "[x:5][[x:5][[",
    "(G)": "()",
    "(G)[": "([x:5])[",
    "(G)a[": "()a[",
    "((G))[": "(())[",
    "(a:G)[[": "(a:)[[",
    "[G:5][[": "[:5][[",
    "(G)[G[[": "()[[x:5][[",
    ":)G": ":)",
    "G :(": " :(",
    "[G:a:5](": "(",
}


@pytest.mark.parametrize(("text", "said"), LEFT_OVER.items())
def test_brackets_that_are_left_over_can_undo_a_schedule(text, said):
    assert schedule(text.replace("G", "[x:5]"), Run(6))[0][1] == said


@pytest.mark.parametrize(
    "text",
    ["a | b [c:d:0.5]", "[a|b", "[a|b:0.5] [c:d:0.5]", "[c:d:0.5] \\", "[c:d:0.5] \\\n", "[a|b] | [c:d:0.5]"],
)
def test_what_the_grammar_refuses_is_not_scheduled_at_all(text):
    assert schedule(text, Run(20)) == ((20, text),)


@pytest.mark.parametrize("when", ["1e1", "+5", " 5 ", "5.", "\n5", "-0.5e0", ".5"])
def test_numbers_of_every_form_are_steps(when):
    assert schedule(f"[a:b:{when}]", Run(20))[-1] == (20, "b" if float(when) != 5 or "." not in when else "a")


@pytest.mark.parametrize("when", ["0,5", "x", "", "0.5 0.6", "٣", "1_0", "inf"])
def test_what_is_no_number_is_text(when):
    assert schedule(f"[a:b:{when}]", Run(20)) == ((20, f"[a:b:{when}]"),)


def test_an_infinite_step_is_refused():
    with pytest.raises(RequestError, match="changes at step 1e999"):
        schedule("[a:b:1e999]", Run(20))


def test_many_changes_of_a_long_prompt_are_refused():
    with pytest.raises(RequestError, match="changes 1,000 times"):
        schedule("[a|b]" + "c" * 90_000, Run(1000))


@given(
    st.recursive(
        st.sampled_from(["a", "b c", ", ", "\\(d\\)"]),
        lambda inner: st.one_of(
            st.tuples(inner, inner).map("".join),
            inner.map("({})".format),
            inner.map("({}:1.2)".format),
            inner.map("[{}]".format),
            st.tuples(inner, inner, st.integers(0, 25)).map(lambda t: f"[{t[0]}:{t[1]}:{t[2]}]"),
            st.lists(inner, min_size=2, max_size=4).map(lambda parts: "[" + "|".join(parts) + "]"),
        ),
        max_leaves=12,
    )
)
def test_of_sound_prompts_no_mark_of_a_schedule_stays(text):
    """A mark stays only as A1111's emphasis: [a] and (a:1.2)."""
    entries = schedule(text, Run(20))
    assert entries[-1][0] == 20
    for _, said in entries:
        assert "|" not in said
        assert said.count("(") == said.count(")")
        assert said.count(":") == said.count(":1.2)")
