"""Prompts encoded several batches ahead, where the text encoders do not stay in memory: they are read once for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

from ..errors import MlxdiffError
from ..pipeline import KEPT_CONDITIONINGS, StableDiffusion
from ..request import Resolved

T = TypeVar("T")


def encoded_ahead(
    sd: StableDiffusion, items: Iterable[T | None], request_of: Callable[[T], Resolved | None]
) -> Iterator[T | None]:
    """The items, of which as many as the pipeline remembers are encoded before the first of them is passed on.

    `request_of` gives the resolved request that an item is about to render, or None. A None among the items is passed
    on at once, after what came before it, and so is an error that they raise. Where the encoders stay in memory
    nothing is done ahead.
    """
    if sd.keeps_encoders:
        yield from items
        return
    waiting: list[T] = []

    def encoded() -> Iterator[T]:
        requests = [request for item in waiting if (request := request_of(item)) is not None]
        # An error belongs to the item that it comes from, which meets it again when it is rendered.
        with suppress(MlxdiffError, MemoryError, RuntimeError):
            sd.encode_ahead(requests)
        yield from waiting
        waiting.clear()

    try:
        for item in items:
            if item is not None:
                waiting.append(item)
            if item is None or len(waiting) == KEPT_CONDITIONINGS:
                yield from encoded()
            if item is None:
                yield None
    except MlxdiffError:
        yield from encoded()
        raise
    yield from encoded()
