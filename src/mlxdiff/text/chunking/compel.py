"""compel's chunks, which end with sentences, and the copies that its weights below 1 need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ..syntax.prompt import Fragment
from ..tokenizer import Tokenizer
from .chunk import Chunk, Chunked, Names, Share, check_count, finite_weight, make_chunk
from .plain import Slot, slots_of, spread


def chunk(
    fragments: Sequence[Fragment], tokenizer: Tokenizer, names: Names | None = None
) -> tuple[Chunked, tuple[Share, ...]]:
    """compel's chunks, which end at the end of a sentence if they can, else of a phrase, else of a word.

    Beside the whole prompt, the shares hold a copy for each fragment of a weight below 1, in which nothing attends to
    that fragment; the lower its weight, the larger the copy's share (`DownweightMode.MASK`). A prompt without such
    fragments is one share.
    """
    slots: list[Slot] = []
    weights: list[float] = []
    owners: list[int] = []
    for index, fragment in enumerate(fragments):
        found = slots_of(fragment.text, tokenizer, names)
        slots += found
        weights += [finite_weight(fragment)] * len(found)
        owners += [index] * len(found)
    chunks: list[Chunk] = []
    places: dict[int, list[int]] = {}  # of each fragment's tokens, over all chunks
    start = 0
    while start < len(slots) or not chunks:
        end = start + _sentence([slot.id for slot in slots[start : start + tokenizer.room + 1]], tokenizer)
        for place, owner in enumerate(owners[start:end], start=len(chunks) * tokenizer.max_length + 1):
            places.setdefault(owner, []).append(place)
        ids, placements = spread(slots[start:end])
        chunks.append(make_chunk(ids, weights[start:end], placements, tokenizer))
        check_count(len(chunks))
        start = end
    low = [(index, fragment.weight) for index, fragment in enumerate(fragments) if fragment.weight < 1]
    low = [(index, weight) for index, weight in low if index in places]
    check_count(len(chunks) * (1 + len(low)))
    parts = [1.0, *(math.tan((1 - max(weight, _EPSILON)) * math.pi / 2) for _, weight in low)]
    copies = [tuple(chunks), *(_without(chunks, places[index]) for index, _ in low)]
    shares = tuple(Share(copy, part / sum(parts)) for copy, part in zip(copies, parts, strict=True))
    return Chunked(tuple(chunks), len(slots)), shares


_EPSILON = 1e-5
_ENDS = (frozenset({".</w>"}), frozenset({".</w>", ",</w>", ";</w>", ":</w>"}))


def _sentence(ids: Sequence[int], tokenizer: Tokenizer) -> int:
    """How many of the ids go into the next chunk; those that fit, if that is all."""
    if len(ids) <= tokenizer.room:
        return len(ids)
    symbols = [tokenizer.symbol(index) for index in ids[: tokenizer.room]]
    for ends in _ENDS:
        found = [place for place, symbol in enumerate(symbols) if symbol in ends]
        if found:
            return found[-1] + 1
    found = [place for place, symbol in enumerate(symbols) if symbol.endswith("</w>")]
    return found[-1] + 1 if found else tokenizer.room


def _without(chunks: Sequence[Chunk], places: Sequence[int]) -> tuple[Chunk, ...]:
    """The chunks with one fragment hidden, and what lies between its tokens, but no chunk's first and last place."""
    length = len(chunks[0].ids)
    first, last = places[0], places[-1]
    hidden: dict[int, set[int]] = {}
    for place in range(first, last + 1):
        index, offset = divmod(place, length)
        if 0 < offset < length - 1:
            hidden.setdefault(index, set()).add(offset)
    return tuple(replace(chunk, hidden=frozenset(hidden.get(index, ()))) for index, chunk in enumerate(chunks))
