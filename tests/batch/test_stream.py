"""Streams: items as they come, a None for a pause, an end on demand."""

from __future__ import annotations

import threading
import time

import pytest

from mlxdiff.batch.stream import as_they_come


def test_items_come_in_order_and_pauses_are_told():
    go = threading.Event()

    def items():
        yield from (1, 2)
        assert go.wait(10)
        yield 3

    found = []
    for item in as_they_come(items()):
        found.append(item)
        if item is None:
            go.set()
    assert [item for item in found if item is not None] == [1, 2, 3]
    assert found.index(None) == 2


def test_error_is_raised_after_what_came_before():
    def items():
        yield 1
        raise ValueError("here")

    stream = as_they_come(items())
    assert next(stream) == 1
    with pytest.raises(ValueError, match="here"):
        list(stream)


def test_stop_ends_a_wait():
    never = threading.Event()
    began = time.monotonic()

    def items():
        yield 1
        never.wait(5)

    assert [item for item in as_they_come(items(), lambda: True) if item is not None] == [1]
    assert time.monotonic() - began < 3
    never.set()
