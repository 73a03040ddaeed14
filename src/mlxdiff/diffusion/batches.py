"""ComfyUI's noise: one generator draws for a whole batch, and an image is one place in it.

So image i is draw i of the seed, and not of seed + i. What the steps of an image draw depends on how many there were in
its batch, which its place says; any of them can be rendered alone, or beside images of other batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from ..request import BatchPlace
from .brownian import shared_brownian_noise
from .noise import NoiseStream, picked_batch, shared_batch
from .step import Noise

_BLOCK = 16  # numbers that torch draws together: of a multiple, images one by one are the same as all at once


@dataclass(frozen=True)
class _Group:
    """Images of one batch: their rows among those that are rendered, their places in it, and how many it has.

    count  None where a batch of its own was made of a place in another (LatentFromBatch)
    """

    seed: int
    count: int | None
    rows: tuple[int, ...]
    indices: tuple[int, ...]


class BatchNoise:
    """The noise of images, each with a seed and a place in that seed's batch.

    shape   (h, w, C) of an image's latents
    source  as NoiseStream has it
    """

    def __init__(
        self, seeds: Sequence[int], places: Sequence[BatchPlace | None], shape: tuple[int, int, int], source: str
    ) -> None:
        self._shape, self._source = shape, source
        found: dict[tuple[int, int | None], list[tuple[int, int]]] = {}
        for row, (seed, place) in enumerate(zip(seeds, places, strict=True)):
            count, index = (1, 0) if place is None else (place.count, place.index)
            found.setdefault((seed, count), []).append((row, index))
        self._groups = [_Group(*key, *zip(*rows, strict=True)) for key, rows in found.items()]

    def start(self) -> mx.array:
        """(B, h, w, C): the first draw of each seed's generator."""

        def drawn(group: _Group) -> mx.array:
            stream = NoiseStream(group.seed, self._source)
            if group.count is None:
                return picked_batch(stream, group.indices, *self._shape)
            return self._picked(stream, group.count, group.indices)

        return self._gathered([drawn(group) for group in self._groups])

    def steps(self) -> Noise:
        """Each step takes the next draw of a second generator of the same seed."""
        streams = [NoiseStream(group.seed, self._source) for group in self._groups]

        def noise(_sigma: float, _sigma_next: float) -> mx.array:
            return self._gathered(
                [self._picked(stream, *_own(group)) for stream, group in zip(streams, self._groups, strict=True)]
            )

        return noise

    def brownian(self, ends: tuple[float, float]) -> Noise:
        """One path for each batch, between these levels."""
        paths: list[Callable[[float, float], mx.array]] = [
            shared_brownian_noise(group.seed, _own(group)[0], *self._shape, ends, self._source)
            for group in self._groups
        ]

        def noise(sigma: float, sigma_next: float) -> mx.array:
            return self._gathered(
                [
                    path(sigma, sigma_next)[mx.array(_own(group)[1])]
                    for path, group in zip(paths, self._groups, strict=True)
                ]
            )

        return noise

    def _picked(self, stream: NoiseStream, count: int, indices: Sequence[int]) -> mx.array:
        """The next draw for `count` images, of which these are kept."""
        height, width, channels = self._shape
        if self._source != "torch" or math.prod(self._shape) % _BLOCK:
            return shared_batch(stream, count, *self._shape)[mx.array(list(indices))]
        kept: dict[int, mx.array] = {}
        for index in range(count):  # all are drawn, so that the stream goes on where it does for the whole batch
            draw = stream.standard_normal((channels, height, width))
            if index in indices:
                kept[index] = draw
        return mx.stack([kept[index] for index in indices]).transpose(0, 2, 3, 1)

    def _gathered(self, parts: Sequence[mx.array]) -> mx.array:
        """The groups' images in the order of the rows."""
        rows = [row for group in self._groups for row in group.rows]
        order = sorted(range(len(rows)), key=rows.__getitem__)
        return mx.concatenate(list(parts))[mx.array(order)]


def _own(group: _Group) -> tuple[int, tuple[int, ...]]:
    """How many images a batch has in its steps, and which of them are wanted: one that was picked is alone."""
    return (1, (0,) * len(group.rows)) if group.count is None else (group.count, group.indices)
