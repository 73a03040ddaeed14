"""GEGLU (Shazeer 2020): one half of a linear layer's output, gated by the GELU of the other."""

from __future__ import annotations

import mlx.core as mx

from . import cuda, geglu_hopper, native, packing
from .activations import gelu
from .linear import linear

_THREADS = 256


def geglu(x: mx.array) -> mx.array:
    """x (..., 2 W) -> (..., W): its first half times the exact GELU of its second."""
    if (extension := native.serving(x)) is not None:
        return extension.geglu(x)
    if x.shape[-1] % (2 * cuda.wide(x)) == 0 and cuda.available():
        return _on_cuda(x)
    return plain(x)


def linear_geglu(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """`geglu` of a linear layer of x (..., C): its weight (2 W, C), packed or not, and bias (2 W,); (..., W)."""
    in_pairs = packing.is_packed(weight, 2) and weight.shape[0] % 2 == 0  # of panels: a value's and its gate's
    if x.size > 0 and in_pairs and (extension := native.serving(x, weight, bias)) is not None:
        return extension.linear_geglu(x, weight, bias)
    if geglu_hopper.takes(x, weight, bias):
        return geglu_hopper.run(x, weight, bias)
    return geglu(linear(x, weight, bias))


def plain(x: mx.array) -> mx.array:
    """`geglu` in MLX's own operations."""
    x, gate = mx.split(x, 2, axis=-1)
    return x * gelu(gate)


def _on_cuda(x: mx.array) -> mx.array:
    width = x.shape[-1] // 2
    rows = x.size // (2 * width)
    (out,) = cuda.launch(
        "pointwise",
        "geglu",
        [x],
        [rows, width],
        blocks=(-(-rows * width // (cuda.wide(x) * _THREADS)), 1),
        threads=_THREADS,
        outputs=[((*x.shape[:-1], width), x.dtype)],
    )
    return out
