"""Matrix products of layers: MLX's own, the native extension's on a CPU, or a kernel for one GPU.

The extension's sum of an element is of one order, whatever the number of threads, so that pictures do not depend on it.
"""

from __future__ import annotations

import mlx.core as mx

from . import fp32_hopper, native, packing


def linear(x: mx.array, weight: mx.array, bias: mx.array | None = None) -> mx.array:
    """x (..., C) times the transpose of weight (O, C), packed or not, plus bias (O,): (..., O)."""
    if x.size > 0 and (extension := native.serving(x, weight, bias)) is not None:
        return extension.linear(x, weight, bias)
    weight = packing.unpacked(weight) if packing.is_packed(weight, 2) else weight
    if fp32_hopper.multiplies(x, weight):
        return fp32_hopper.multiply(x, weight, bias)
    return x @ weight.T if bias is None else mx.addmm(bias, x, weight.T)


def product(a: mx.array, b: mx.array) -> mx.array:
    """a (..., n, k) times b (..., k, m), in a's dtype; on a CPU in fp32, which MLX multiplies far faster there."""
    if mx.default_device() == mx.cpu:
        return (a.astype(mx.float32) @ b.astype(mx.float32)).astype(a.dtype)
    return a @ b
