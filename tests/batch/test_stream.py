"""Streams: items as they come, a None for a pause, an end on demand."""

from __future__ import annotations

import threading

import pytest
from patience import WAIT

from mlxdiff.batch.stream import as_they_come


def test_items_come_in_order_and_pauses_are_told():
    go = threading.Event()

    def items():
        yield from (1, 2)
        assert go.wait(WAIT)
        yield 3

    stream = as_they_come(items())
    coming = (item for item in stream if item is not None)  # where the reader is slow there are pauses before
    assert [next(coming), next(coming)] == [1, 2]
    assert next(stream) is None
    go.set()
    assert list(coming) == [3]


def test_error_is_raised_after_what_came_before():
    def items():
        yield 1
        raise ValueError("here")

    stream = as_they_come(items())
    assert next(stream) == 1
    with pytest.raises(ValueError, match="here"):
        list(stream)


def test_stop_ends_a_wait():
    never, waited = threading.Event(), threading.Event()
    seen = []

    def items():
        yield 1
        never.wait(WAIT)
        waited.set()

    for item in as_they_come(items(), lambda: bool(seen)):
        if item is not None:
            seen.append(item)  # noqa: PERF401 (it is looked at meanwhile)
    assert seen == [1]
    assert not waited.is_set()
    never.set()
