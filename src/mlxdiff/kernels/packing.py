"""Weights in the order in which the native extension's products read them.

A product reads weights in panels, as wide as its registers. Where images are small, bringing them into that order takes
a fifth of the time of a call: so networks keep them in it. Packed weights take as many bytes as before; native/pack.h
has their shapes.
"""

from __future__ import annotations

import math

import mlx.core as mx

from . import native


def packed(weight: mx.array) -> mx.array | None:
    """A matrix (O, C) or a convolution's weight (O, kernel, kernel, C), packed; None where it has to stay as it is."""
    extension = native.serving(weight)
    if extension is None or weight.shape[1:-1] not in ((), (1, 1), (2, 2), (3, 3)):
        return None
    done = extension.pack(weight)
    return None if done is weight or done.shape == weight.shape else done


def unpacked(weight: mx.array) -> mx.array:
    """The weight of which `packed` made this, for MLX's own operations."""
    pairs = 2 if weight.dtype == mx.bfloat16 else 1
    flat = weight.ndim - (pairs - 1) == 3
    panels, *middle, depth, columns = weight.shape[: weight.ndim - (pairs - 1)]
    runs, taps = (1, 1) if flat else middle
    axes = weight.reshape(panels, runs, taps, depth, columns, pairs).transpose(0, 4, 2, 1, 3, 5)
    side = math.isqrt(taps)
    kernel = () if flat else (side, side)
    return axes.reshape(panels * columns, *kernel, runs * depth * pairs)


def is_packed(weight: mx.array, axes: int) -> bool:
    """Whether a weight is packed that otherwise has so many axes: 2 for a matrix, 4 for a convolution's."""
    return weight.ndim > axes
