"""Nearest-neighbour enlargement to twice the size and a 3x3 convolution, as convolutions of the small map.

The nine neighbours of a pixel of the enlarged map are copies of four pixels of the small one; which four, and which
neighbours are the same, depends on whether its row and its column are even: four phases. Each phase is a 2x2
convolution of the small map whose weights are sums of the 3x3 ones. The four take 16 products where the enlarged map
takes 36, and that map is never written.
"""

from __future__ import annotations

import mlx.core as mx

from . import cuda, fp32_hopper


def phases(weight: mx.array) -> mx.array | None:
    """The weights of the four phases (4 O, 2, 2, C) of a 3x3 convolution's (O, 3, 3, C), for `convolve_enlarged`.

    None where the convolution of the enlarged map is to stay: on other devices, and where the kernel for fp32 has it,
    which takes less time for 36 products than the library for 16. Sums are rounded once, to the weight's dtype.
    """
    fits = weight.shape[1:3] == (3, 3) and weight.shape[0] % cuda.wide(weight) == 0
    return plain_phases(weight) if fits and cuda.available() and not fp32_hopper.serves(weight) else None


def plain_phases(weight: mx.array) -> mx.array:
    """`phases`, whatever the device."""
    kernels = [phase for rows in _by_parity(weight.astype(mx.float32), 1) for phase in _by_parity(rows, 2)]
    return mx.concatenate(kernels).astype(weight.dtype)


def _by_parity(kernel: mx.array, axis: int) -> list[mx.array]:
    """What three taps along an axis are for an even pixel, whose other neighbour is in front of it, and an odd one."""
    first, middle, last = mx.split(kernel, 3, axis)
    return [mx.concatenate([first, middle + last], axis), mx.concatenate([first + middle, last], axis)]


def convolve_enlarged(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """The convolution of x (B, h, w, C) enlarged, with weights made by `phases` and bias (O,): (B, 2 h, 2 w, O)."""
    together = mx.conv2d(x, weight, 1, 1)  # (B, h + 1, w + 1, 4 O): each phase has a row and a column too many
    fits = bias.shape[0] % cuda.wide(together) == 0
    return _on_cuda(together, bias) if fits and cuda.available() else plain(together, bias)


def plain(together: mx.array, bias: mx.array) -> mx.array:
    """The pixels of the phases (B, h + 1, w + 1, 4 O) in their places, plus bias, in MLX's own operations."""
    batch, height, width, channels = together.shape
    apart = together.reshape(batch, height, width, 2, 2, channels // 4)
    columns = [[apart[:, a : height - 1 + a, b : width - 1 + b, a, b] for b in (0, 1)] for a in (0, 1)]
    rows = mx.stack([mx.stack(pair, axis=3) for pair in columns], axis=2)
    return rows.reshape(batch, 2 * (height - 1), 2 * (width - 1), channels // 4) + bias


def _on_cuda(together: mx.array, bias: mx.array) -> mx.array:
    batch, height, width, channels = together.shape
    height, width, channels = height - 1, width - 1, channels // 4
    inputs = [together, bias.astype(together.dtype)]
    shape = batch, 2 * height, 2 * width, channels
    return cuda.move("upsample", "interleave", inputs, [batch, height, width, channels], shape)
