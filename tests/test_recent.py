"""What is kept of what was asked for last."""

from __future__ import annotations

import pytest

from mlxdiff.recent import Recent


def test_what_was_asked_for_longest_ago_goes():
    recent, made = Recent(2), []

    def ask(key):
        return recent.get(key, lambda: made.append(key) or key.upper())

    assert [ask(key) for key in "abacab"] == list("ABACAB")
    assert made == list("abcb")  # "a" was asked for again before "c" took a place
    assert len(recent) == 2


def test_a_room_of_sizes_holds_one_value_at_least():
    recent = Recent(10, len)
    recent.get("few", lambda: "12345")
    recent.get("more", lambda: "12345")
    assert len(recent) == 2
    assert recent.get("many", lambda: "x" * 99) == "x" * 99
    assert len(recent) == 1


def test_what_cannot_be_made_is_not_kept():
    recent = Recent(2)
    with pytest.raises(ZeroDivisionError):
        recent.get("a", lambda: 1 // 0)
    assert len(recent) == 0
    assert recent.get("a", lambda: 1) == 1
