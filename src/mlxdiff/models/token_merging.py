"""Token merging (Bolya and Hoffman 2023, "Token Merging for Fast Stable Diffusion"): attention among fewer tokens.

Tokens are the cells of a map, row by row. The top left cell of each 2x2 block is a destination, all others are sources.
The sources most like some destination are merged into it, by the mean; what attention then says of the destination is
said of all that were merged into it:

    tokens (B, N, C) -> merge -> (B, K + D, C) -> attention -> unmerge -> (B, N, C)

K sources are kept, D are destinations. Nothing is drawn, so that a picture is the same each time, and each image of a
batch is matched by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import mlx.core as mx
import numpy as np

from ..kernels.linear import product

_SHORTEST = 1e-6  # lengths are divided by no less: a token of zeros is like none


@dataclass(frozen=True)
class Merging:
    """What merges into what, for each image of a batch.

    sources, destinations  (S,) and (D,) the cells
    ranked  (B, S) the sources, the least like any destination first: the first K are kept, the others merged
    shares  (B, D, S - K) how much of each merged source is in the mean that a destination becomes
    own     (B, D, 1) how much of the destination itself is in it
    places  (B, N) where among the K + D merged tokens each cell finds its own
    """

    sources: mx.array
    destinations: mx.array
    ranked: mx.array
    shares: mx.array
    own: mx.array
    places: mx.array

    def merge(self, tokens: mx.array) -> mx.array:
        """(B, N, C) to (B, K + D, C): the sources that are kept, then the destinations."""
        sources = mx.take_along_axis(tokens[:, self.sources], self.ranked[..., None], axis=1)
        kept, merged = mx.split(sources, [sources.shape[1] - self.shares.shape[2]], axis=1)
        # A product, not a scatter: on a GPU the order in which a scatter adds, and so its last bits, differ each time.
        joined = product(self.shares.astype(tokens.dtype), merged)
        return mx.concatenate([kept, tokens[:, self.destinations] * self.own.astype(tokens.dtype) + joined], axis=1)

    def unmerge(self, merged: mx.array) -> mx.array:
        """(B, K + D, C) back to (B, N, C)."""
        return mx.take_along_axis(merged, self.places[..., None], axis=1)


def match(tokens: mx.array, size: tuple[int, int], ratio: float) -> Merging | None:
    """Merges int(ratio * N) of the tokens (B, N, C) of a map of `size` (height, width), at most all sources.

    None where that is no token at all. Likeness is the cosine, taken in fp32.
    """
    sources, destinations, order = _cells(*size)
    n_sources, n_destinations = len(sources), len(destinations)
    n_merged = min(int(ratio * (n_sources + n_destinations)), n_sources)
    if n_merged == 0:
        return None
    n_kept = n_sources - n_merged
    lengths = mx.linalg.norm(tokens.astype(mx.float32), axis=-1, keepdims=True)
    directions = tokens.astype(mx.float32) / mx.maximum(lengths, _SHORTEST)
    at, to = mx.array(sources), mx.array(destinations)
    likeness = directions[:, at] @ directions[:, to].swapaxes(1, 2)
    nearest = likeness.argmax(axis=-1)
    ranked = mx.argsort(likeness.max(axis=-1), axis=-1)
    joins = mx.take_along_axis(nearest, ranked[:, n_kept:], axis=1)[:, None] == mx.arange(n_destinations)[:, None]
    own = 1 / (1 + joins.sum(axis=-1, keepdims=True))
    rank = mx.argsort(ranked, axis=-1).astype(mx.int32)
    of_sources = mx.where(rank < n_kept, rank, n_kept + nearest.astype(mx.int32))
    of_destinations = mx.broadcast_to(mx.arange(n_kept, n_kept + n_destinations), (tokens.shape[0], n_destinations))
    places = mx.concatenate([of_sources, of_destinations], axis=1)[:, mx.array(order)]
    return Merging(at, to, ranked, joins * own, own, places)


@lru_cache(maxsize=8)
def _cells(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sources, destinations, and where in their concatenation each cell of the map is."""
    first = np.zeros((height, width), dtype=bool)
    first[::2, ::2] = True
    sources, destinations = np.flatnonzero(~first), np.flatnonzero(first)
    return sources, destinations, np.argsort(np.concatenate([sources, destinations]))
