"""Brownian noise: steps that share a path, so that what is drawn over an interval depends on its ends alone.

The numbers are those of torchsde's BrownianTree (Li et al. 2020, section 4) as k-diffusion's BrownianTreeNoiseSampler
and ComfyUI call it. A tree of intervals is halved down to the two ends asked for; each node's seed comes from numpy's
SeedSequence and its normals from a fresh generator, so nothing depends on the order of the questions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..errors import RequestError
from ..recent import Recent
from .noise import NoiseStream
from .step import Noise

_DIGITS = 6  # torchsde's tolerance of 1e-6: times are rounded to it
_POOL = 24
_KEPT = 64  # nodes whose value is remembered; a step needs the few above its own ends again


@dataclass(frozen=True)
class _Node:
    """An interval of the tree. path: its place, the left half of a node being 2 * path and the right 2 * path + 1."""

    start: float
    end: float
    path: int
    depth: int


class BrownianTree:
    """A Brownian path W over [start, end], of arrays of `shape`.

    seed    whole number from 0 to 2**64 - 1
    source  where each node's normals come from, as NoiseStream names them (A1111's "Random number generator source")
    """

    def __init__(self, shape: Sequence[int], start: float, end: float, seed: int, source: str = "torch"):
        if not 0 < end - start < math.inf:
            raise RequestError(
                f"Brownian noise over the noise levels {start:g} to {end:g} is not possible.",
                "Use a schedule of at least two different noise levels.",
            )
        self._shape, self._source, self._seed = tuple(shape), source, seed % 2**64
        self._root = _Node(round(start, _DIGITS), round(end, _DIGITS), 0, 0)
        first = np.random.SeedSequence(entropy=self._seed, pool_size=_POOL).generate_state(1)[0]
        self._whole = self._normals(int(first)) * np.float32(math.sqrt(end - start))
        self._values: Recent[np.ndarray] = Recent(_KEPT)

    def increment(self, start: float, end: float) -> np.ndarray:
        """W(end) - W(start), fp32 of `shape`; ends outside the path's are moved to its own."""
        low, high = (min(max(round(t, _DIGITS), self._root.start), self._root.end) for t in (start, end))
        if low == high:
            return np.zeros(self._shape, dtype=np.float32)
        if low > high:
            return -self.increment(end, start)
        total: np.ndarray | None = None
        for value in self._pieces(low, high):
            total = value if total is None else total + value
        assert total is not None
        return total

    def _pieces(self, low: float, high: float) -> list[np.ndarray]:
        """The values of the nodes that make up [low, high], from left to right."""
        pieces, stack = [], [(self._root, self._whole, low, high)]
        while stack:
            node, value, low, high = stack.pop()
            if (low, high) == (node.start, node.end):
                pieces.append(value)
                continue
            left, right = _halves(node)
            left_value = self._left(node, left, value)
            if high > left.end:
                stack.append((right, value - left_value, max(low, left.end), high))
            if low < left.end:
                stack.append((left, left_value, low, min(high, left.end)))
        return pieces

    def _left(self, node: _Node, left: _Node, value: np.ndarray) -> np.ndarray:
        """The left half's share of a node's increment: the middle of a Brownian bridge."""

        def drawn() -> np.ndarray:
            whole, before, after = node.end - node.start, left.end - node.start, node.end - left.end
            seeds = np.random.SeedSequence(
                entropy=self._seed, spawn_key=(node.path, node.depth), pool_size=_POOL
            ).generate_state(1)
            mean = np.float32(before) * value * np.float32(1 / whole)
            return mean + np.float32(math.sqrt(before * after * (1 / whole))) * self._normals(int(seeds[0]))

        return self._values.get(node, drawn)

    def _normals(self, seed: int) -> np.ndarray:
        return NoiseStream(seed, self._source).numbers(self._shape)


def _halves(node: _Node) -> tuple[_Node, _Node]:
    middle = round(0.5 * (node.end + node.start), _DIGITS)
    path, depth = 2 * node.path, node.depth + 1
    return _Node(node.start, middle, path, depth), _Node(middle, node.end, path + 1, depth)


def brownian_noise(
    seeds: Sequence[int], height: int, width: int, channels: int, ends: tuple[float, float], source: str = "torch"
) -> Noise:
    """A tree for each image: A1111's SDE samplers, in batches of any size.

    ends  smallest positive and largest noise level; A1111 takes those of the whole schedule, also in image to image
    """
    low, high = map(_fp32, ends)
    trees = [BrownianTree((channels, height, width), low, high, seed, source) for seed in seeds]
    return _noise(lambda start, end: np.stack([tree.increment(start, end) for tree in trees]))


def shared_brownian_noise(
    seed: int,
    batch: int,
    height: int,
    width: int,
    channels: int,
    ends: tuple[float, float],
    source: str = "torch",
) -> Noise:
    """One tree for the whole batch: ComfyUI's SDE samplers, whose `ends` are those of the levels that are run."""
    low, high = map(_fp32, ends)
    return _noise(BrownianTree((batch, channels, height, width), low, high, seed, source).increment)


def _noise(increment: Callable[[float, float], np.ndarray]) -> Noise:
    def noise(sigma: float, sigma_next: float) -> mx.array:
        start, end = _fp32(sigma), _fp32(sigma_next)
        if start == end:
            raise RequestError(
                f"A step of no length, from the noise level {sigma:g} to {sigma_next:g}, has no Brownian noise.",
                "Use a schedule whose levels differ, or another sampler.",
            )
        spread = np.sqrt(np.abs(np.float32(end) - np.float32(start)))
        # k-diffusion's sign: towards less noise is the way of the path, so a step up is its negative.
        low, high, sign = (start, end, 1) if start < end else (end, start, -1)
        return mx.array(sign * increment(low, high) / spread).transpose(0, 2, 3, 1)

    return noise


def _fp32(sigma: float) -> float:
    """k-diffusion hands its levels over in fp32, which decides the sixth digit."""
    return float(np.float32(sigma))
