"""A residual stream, to which the branches of transformer blocks are added.

cuBLAS adds a matrix to a product in less time than another pass over memory takes, but then adds no bias. So on NVIDIA
GPUs a stream owes the biases of the branches that were added to it, one number a channel: what reads the stream adds
them. Elsewhere it owes nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from . import cuda, fp32_hopper
from .linear import linear
from .residual import add_biased


class Stream(NamedTuple):
    """The sum of x (..., C) and of what it owes (C,), if anything."""

    x: mx.array
    owed: mx.array | None = None

    def whole(self) -> mx.array:
        """The sum itself, (..., C)."""
        return self.x if self.owed is None else self.x + self.owed


def add(stream: Stream, branch: mx.array, bias: mx.array) -> Stream:
    """The stream with a branch (..., C) and its bias (C,); it owes nothing then."""
    return Stream(add_biased(stream.x, branch, _sum(stream.owed, bias)))


def add_linear(stream: Stream, branch: mx.array, weight: mx.array, bias: mx.array) -> Stream:
    """The stream with a linear layer of a branch (..., K): its weight (C, K), packed or not, and bias (C,)."""
    if not _owes(weight):
        return add(stream, linear(branch, weight), bias)
    return Stream(mx.addmm(stream.x, branch, weight.T), _sum(stream.owed, bias))


def linear_of(stream: Stream, weight: mx.array, bias: mx.array) -> tuple[mx.array, mx.array]:
    """A linear layer of the stream without its bias, and that: weight (D, C), packed or not, and bias (D,)."""
    whole_bias = bias if stream.owed is None else _constant(mx.addmm(bias, stream.owed, weight.T))
    return linear(stream.x, weight), whole_bias


def _sum(owed: mx.array | None, bias: mx.array) -> mx.array:
    return bias if owed is None else _constant(owed + bias)


def _owes(weight: mx.array) -> bool:
    return cuda.available() and not fp32_hopper.serves(weight)


def _constant(array: mx.array) -> mx.array:
    """The array of weights alone, computed now: a compiled call holds it instead of computing it each time."""
    mx.async_eval(array)
    return array
