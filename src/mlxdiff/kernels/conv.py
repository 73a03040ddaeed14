"""Two-dimensional convolution of NHWC arrays: MLX's own, the native extension's on a CPU, or a kernel for one GPU."""

from __future__ import annotations

import mlx.core as mx

from . import apple, fp32_hopper, native, packing


def conv2d(
    x: mx.array, weight: mx.array, bias: mx.array | None = None, *, stride: int = 1, padding: int = 0
) -> mx.array:
    """The convolution of x (B, h, w, C) with weight (O, kernel, kernel, C), plus bias (O,): (B, h', w', O).

    The weight may be packed (kernels/packing.py). Height and width are padded by `padding` zeros on both sides.
    """
    extension = native.serving(x, weight, bias)
    # MLX writes out every pixel's neighbourhood, nine times the input, and multiplies.
    packed = packing.is_packed(weight, 4)
    if extension is not None and (packed or weight.shape[1] == weight.shape[2] <= 3):
        return extension.convolve(x, weight, bias, stride, padding)
    weight = packing.unpacked(weight) if packed else weight
    if fp32_hopper.convolves(x, weight, stride, padding):
        return fp32_hopper.convolve(x, weight, bias)
    return plain(x, weight, bias, stride=stride, padding=padding)


def plain(
    x: mx.array, weight: mx.array, bias: mx.array | None = None, *, stride: int = 1, padding: int = 0
) -> mx.array:
    """`conv2d` in MLX's own operations."""
    out = (
        apple.unfolded(x, weight, padding)
        if apple.unfolds(x, weight, stride)
        else mx.conv2d(x, weight, stride, padding)
    )
    return out if bias is None else out + bias
