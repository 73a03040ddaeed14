"""Textual inversions among the tokens of a prompt: their vectors in the place of token embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import mlx.core as mx

from .chunking.chunk import Chunk
from .emphasis import ids_of


def token_vectors(
    chunks: Sequence[Chunk], embed: Callable[[mx.array], mx.array], vectors: Mapping[str, mx.array]
) -> mx.array | None:
    """(N, T, D): the token embeddings of chunks with their textual inversions in place; None where there are none.

    embed    (N, T) int32 -> (N, T, D), the text encoder's token embedding
    vectors  (n, D) of each textual inversion, by its name
    """
    if not any(chunk.placements for chunk in chunks):
        return None
    table = embed(ids_of(chunks))
    rows = []
    for chunk, row in zip(chunks, table, strict=True):
        for place in chunk.placements:
            # A1111 may leave one behind in a chunk's padding: what would stick out is cut.
            end = min(place.offset + place.vectors, len(chunk.ids))
            inserted = vectors[place.name][place.first : place.first + end - place.offset].astype(row.dtype)
            row = mx.concatenate([row[: place.offset], inserted, row[end:]])
        rows.append(row)
    return mx.stack(rows)
