"""Group normalization (Wu and He 2018) of NHWC arrays, alone or with SiLU behind it.

`shift` (B or 1, C) is added to every pixel first: where it stands for a convolution's bias and a block's timestep, it
costs nothing here and a pass over the feature map elsewhere.
"""

from __future__ import annotations

import mlx.core as mx

from . import group_norm_cuda, group_norm_hopper, group_norm_metal, native
from .activations import silu


def group_norm(
    x: mx.array, weight: mx.array, bias: mx.array, groups: int, eps: float, shift: mx.array | None = None
) -> mx.array:
    """Group normalization of x (B, ..., C) + shift over all but the batch, within groups of channels, in x's dtype.

    Statistics are taken in fp32 and about a mean: E[x^2] - E[x]^2 loses all digits where the mean is large.
    """
    if (extension := native.serving(x, weight, bias, shift)) is not None:
        return extension.group_norm(x, weight, bias, groups, eps, shift)
    kernel = _kernel(x, groups)
    if kernel is None:
        return plain(x, weight, bias, groups, eps, shift)
    return kernel.run(x, weight, bias, groups, eps, shift, silu=False)


def group_norm_silu(
    x: mx.array, weight: mx.array, bias: mx.array, groups: int, eps: float, shift: mx.array | None = None
) -> mx.array:
    """SiLU of `group_norm`."""
    if (extension := native.serving(x, weight, bias, shift)) is not None:
        return extension.group_norm(x, weight, bias, groups, eps, shift, silu=True)
    kernel = _kernel(x, groups)
    if kernel is None:
        return silu(plain(x, weight, bias, groups, eps, shift))
    return kernel.run(x, weight, bias, groups, eps, shift, silu=True)


def _kernel(x: mx.array, groups: int):
    """The first module with kernels for this chip that take x."""
    kernels = (group_norm_metal, group_norm_hopper, group_norm_cuda)
    return next((kernel for kernel in kernels if kernel.takes(x, groups)), None)


def plain(
    x: mx.array, weight: mx.array, bias: mx.array, groups: int, eps: float, shift: mx.array | None = None
) -> mx.array:
    """`group_norm` in MLX's own operations."""
    batch, channels = x.shape[0], x.shape[-1]
    count = x.size // (batch * groups)
    middle = (1,) * (x.ndim - 2)

    # Whole rows are added first: far faster than MLX's reduction over a view (B, N, groups, C / groups).
    def mean(a: mx.array) -> mx.array:
        while a.ndim > 2:
            a = a.sum(axis=1)
        return a.reshape(batch, groups, -1).sum(axis=-1, keepdims=True) / count

    def spread(a: mx.array) -> mx.array:
        return mx.broadcast_to(a, (batch, groups, channels // groups)).reshape(batch, *middle, channels)

    dtype = x.dtype
    x = x.astype(mx.float32)
    if shift is not None:
        x = x + shift.astype(mx.float32).reshape(-1, *middle, channels)
    centred = x - spread(mean(x))
    scale = spread(mx.rsqrt(mean(centred * centred) + eps)) * weight
    return (centred * scale + bias).astype(dtype)
