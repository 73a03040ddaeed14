"""compel's syntax against what compel itself gave."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipe_numbers import prompts
from refusals import outcome

from mlxdiff.errors import RequestError
from mlxdiff.text.syntax import compel
from mlxdiff.text.syntax.prompt import MAX_LETTERS, Fragment, Network, Run, Section, Term

RUN = Run(20)


def sections(text: str) -> tuple[Section, ...]:
    return compel.parse(text, RUN).parts[0].entries[0].sections


def expected(part: dict) -> Section:
    def term(fragments: list, weight: float = 1.0) -> Term:
        flat = []
        for fragment in fragments:
            flat += fragment["original"] if isinstance(fragment, dict) else [fragment]
        joined: list[Fragment] = []
        for text, weight_here in flat:
            if joined and joined[-1].weight == weight_here:
                joined[-1] = Fragment(f"{joined[-1].text} {text}", weight_here)
            else:
                joined.append(Fragment(text, weight_here))
        return Term(tuple(joined), weight)

    if "blend" in part:
        terms = tuple(map(term, part["blend"], part["blend_weights"]))
        return Section(terms, part["weight"], part["normalize"])
    return Section((term(part["fragments"]),), part["weight"])


def rounded(section: Section) -> Section:
    """Weights to the nine digits that were written down."""
    terms = [[Fragment(piece.text, float(f"{piece.weight:.9g}")) for piece in term.pieces] for term in section.terms]
    kept = [Term(tuple(pieces), term.weight) for pieces, term in zip(terms, section.terms, strict=True)]
    return Section(tuple(kept), section.weight, section.normalized)


@pytest.mark.parametrize("case", prompts("compel_parse"), ids=lambda case: case["prompt"])
def test_prompts_are_compels(case):
    assert tuple(map(rounded, sections(case["prompt"]))) == tuple(map(expected, case["result"]))


# Given by compel 2.5.1.
FRAGMENTS = {
    "(a)+1.5": [("a", 1.1), ("1.5", 1.0)],
    "a+b": [("a+b", 1.0)],
    "a .attend(1.5)": [("a", 1.5)],
    '"a, b"-': [("a , b", 0.9)],
    "a,b++": [("a,", 1.0), ("b", 1.1**2)],
    "((a)+ b)-": [("a", 0.9 * 1.1), ("b", 0.9)],
    'a \\"b\\"': [('a "b"', 1.0)],
    "(a": [("(a", 1.0)],
    "(a)1.3 (b)-1": [("a", 1.3), ("b", 0.9), ("1", 1.0)],
}


@pytest.mark.parametrize(("text", "fragments"), FRAGMENTS.items())
def test_fragments(text, fragments):
    (section,) = sections(text)
    assert section.terms == (Term(tuple(Fragment(*fragment) for fragment in fragments)),)


def test_a_blend_without_normalizing():
    (section,) = sections('("a", "b").blend(1, 2, no_normalize)')
    assert not section.normalized
    assert [term.weight for term in section.terms] == [1.0, 2.0]


def test_a_conjunction_weighs_its_parts_and_ends_the_prompt():
    first, second = sections('("a", "b").and(1, .5) and more')
    assert (first.weight, second.weight) == (1.0, 0.5)
    assert second.terms == (Term((Fragment("b"),)),)


def test_loras_are_taken_out():
    prompt = compel.parse("withLora(style, 0.5) a cat useLora(other)", RUN)
    assert prompt.networks == (Network("lora", ("style", "0.5")), Network("lora", ("other", "1")))
    assert prompt.parts[0].entries[0].pieces == (Fragment("a cat"),)


def test_a_swap_is_named_as_ignored():
    assert compel.parse("a cat.swap(dog)", RUN).ignored == (".swap()",)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('("a", "b").blend(1)', "has 1 weights for 2 prompts"),
        ('("a", "b").and(1, x)', "no number"),
        ('("a", "b").blend(1, -1)', "add up to 0"),
        ('("a", "b").blend(1, 1) c', "followed by more text"),
        ('("a".swap("b"), "c").blend(1, 1)', None),
        ("(" * 100 + "a", "nested more than"),
        ("a" + "+" * 50_000, "plus signs"),
        ("a" * (MAX_LETTERS + 1), "characters"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(text, problem):
    if problem is None:  # compel reads it as text, too
        assert len(sections(text)) == 1
        return
    with pytest.raises(RequestError, match=problem):
        compel.parse(text, RUN)


@given(st.lists(st.text(st.sampled_from("abcé日1_:;!"), min_size=1, max_size=6), min_size=1, max_size=6))
def test_words_without_marks_are_kept(words):
    assert sections(" ".join(words)) == (Section((Term((Fragment(" ".join(words)),)),)),)


@given(st.lists(st.sampled_from([*'ab ().,"+-=\\15', ".blend(", ".and(", ".swap(", '("a", "b")', "withLora(x)"])))
def test_anything_is_read_or_refused_in_words(parts):
    prompt = outcome(lambda: compel.parse("".join(parts), RUN))
    assert prompt.remedy if isinstance(prompt, RequestError) else prompt.parts[0].entries[0].sections


HOSTILE = {
    "nested": "(" * 60 + "a" + ")+" * 60,
    "opened": "(a " * 60 + "a " * 40_000,
    "quotes": '"' * MAX_LETTERS,
    "escaped quotes": '"' + '\\"' * (MAX_LETTERS // 2 - 1),
    "signs": "a++ " * (MAX_LETTERS // 4),
    "spaces": " " * MAX_LETTERS,
    "empty brackets": "()" * (MAX_LETTERS // 2),
    "prompts": "(" + '"a", ' * 16_000,
    "calls": "(a).blend(" * 60 + "1, " * 20_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_prompts_take_no_time(text):
    start = time.process_time()
    found = outcome(lambda: compel.parse(text, RUN))
    assert not isinstance(found, RequestError) or len(str(found)) < 300
    assert time.process_time() - start < 10
