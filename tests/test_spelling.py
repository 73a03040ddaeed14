"""Names that were meant: a beginning before a likeness, and one sentence for any number of them."""

from __future__ import annotations

import pytest

from mlxdiff.spelling import nearest, question

KNOWN = ("steps", "guidance_scale", "guidance_start", "guidance_end", "guidance_rescale", "height", "width")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("stpes", ["steps"]),
        ("hieght", ["height"]),
        ("guidance", ["guidance_scale", "guidance_start", "guidance_end"]),
        ("guidance_sca", ["guidance_scale"]),
        ("gui", ["guidance_scale", "guidance_start", "guidance_end"]),
        ("gu", []),
        ("prompt", []),
        ("", []),
        ("width" * 100_000, []),
    ],
)
def test_a_beginning_counts_before_a_likeness(name, meant):
    assert nearest(name, KNOWN) == meant


def test_so_many_and_so_near():
    assert nearest("step", ("stop", "stem", "steps"), count=2) == ["steps", "stop"]
    assert nearest("step", ("stop",), cutoff=0.9) == []


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], ""),
        (["a"], "Did you mean a?"),
        (["a", "b"], "Did you mean a or b?"),
        (["a", "b", "c"], "Did you mean a, b or c?"),
    ],
)
def test_the_question_names_them_all(names, said):
    assert question(names) == said
    assert question(names, "Choose one.") == f"{said} Choose one.".lstrip()
