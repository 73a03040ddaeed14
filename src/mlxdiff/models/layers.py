"""Layers that more than one network is built of: activations, norm, attention, resnet block, resampling.

Arrays are NHWC. Attribute names are diffusers', so that parameter paths equal its state-dict keys.
`group_norm`, `group_norm_silu` and `attention` are the one place each where that operation is computed.
"""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn

from .activations import EXP_STRETCH, gelu, on_cpu, quick_gelu, silu, softmax_numerator

__all__ = [
    "Downsample2D",
    "GroupNorm",
    "GroupNormSiLU",
    "PointwiseConv2d",
    "ResnetBlock2D",
    "TimestepEmbedding",
    "Upsample2D",
    "attention",
    "enlarge",
    "gelu",
    "group_norm",
    "group_norm_silu",
    "quick_gelu",
    "silu",
    "timestep_embedding",
]

# Scores of attention kept at once on a CPU: 4 MiB, about what its caches hold.
_SCORES_AT_ONCE = 2**20

# The head sizes for which Metal has a fused kernel in every MLX that we support.
_METAL_HEAD_SIZES = (64, 80, 128)


def group_norm(x: mx.array, weight: mx.array, bias: mx.array, groups: int, eps: float) -> mx.array:
    """Group normalization (Wu and He 2018) of x (B, ..., C) over all but the batch, within groups of channels.

    Statistics are taken in fp32 and in two passes: E[x^2] - E[x]^2 loses all digits where the mean is large.
    """
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
    centred = x - spread(mean(x))
    scale = spread(mx.rsqrt(mean(centred * centred) + eps)) * weight
    return (centred * scale + bias).astype(dtype)


def group_norm_silu(x: mx.array, weight: mx.array, bias: mx.array, groups: int, eps: float) -> mx.array:
    """SiLU of the group normalization of x (B, ..., C)."""
    return silu(group_norm(x, weight, bias, groups, eps))


def attention(
    q: mx.array, k: mx.array, v: mx.array, *, heads: int, mask: mx.array | None = None, upcast: bool = False
) -> mx.array:
    """Scaled dot-product attention of q (B, T, D) to k and v (B, S, D), D = heads * head size; (B, T, D).

    `mask` is added to the scores and broadcasts to (B, heads, T, S). `upcast` demands scores in fp32, for networks
    whose scores pass what fp16 can hold.
    """
    batch, length, width = q.shape
    size = width // heads
    q, k, v = (a.reshape(batch, -1, heads, size).transpose(0, 2, 1, 3) for a in (q, k, v))
    out = _attention_in_blocks(q, k, v, mask) if on_cpu(q) else _attention(q, k, v, mask, upcast)
    return out.transpose(0, 2, 1, 3).reshape(batch, length, width)


def _attention(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None, upcast: bool) -> mx.array:
    """q (B, heads, T, size), k and v (B, heads, S, size) -> (B, heads, T, size), by MLX's own function."""
    dtype, length, size = q.dtype, q.shape[2], q.shape[3]
    scale = size**-0.5
    # SD 1.x has heads of 40. Padding to 64 saves writing the scores, which pays where they are many.
    if size < 64 and length >= 1024 and mx.metal.is_available():
        q, k, v = (mx.pad(a, [(0, 0), (0, 0), (0, 0), (0, 64 - size)]) for a in (q, k, v))
    # Fused kernels keep scores in fp32 as it is; where MLX composes single operations, it does not.
    if upcast and not _is_fused(q):
        q, k, v = (a.astype(mx.float32) for a in (q, k, v))
    if mask is not None:
        mask = mask.astype(q.dtype)
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)[..., :size].astype(dtype)


def _is_fused(q: mx.array) -> bool:
    """Whether MLX has one kernel for attention of q (B, heads, T, size), on Metal or on CUDA (Ampere and later)."""
    if mx.default_device() == mx.cpu:
        return False
    length, size = q.shape[2:]
    if mx.metal.is_available():
        return length > 8 and size in _METAL_HEAD_SIZES
    return length > 1 and size % 8 == 0 and size <= 128


def _attention_in_blocks(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None) -> mx.array:
    """The same in fp32, in blocks of heads and queries whose scores fit the cache; sums come from a column of ones."""
    batch, heads, length, size = q.shape
    keys = k.shape[2]
    q, k, v = (a.reshape(batch * heads, -1, size) for a in (q * (size**-0.5 * EXP_STRETCH), k, v))
    v = mx.concatenate([v, mx.ones((*v.shape[:2], 1))], axis=-1)
    if mask is not None:
        mask = mx.broadcast_to(mask * EXP_STRETCH, (batch, heads, length, keys)).reshape(batch * heads, length, keys)
    heads_at_once = max(1, _SCORES_AT_ONCE // (length * keys))
    queries_at_once = max(1, min(length, _SCORES_AT_ONCE // keys))
    blocks = []
    for i in range(0, batch * heads, heads_at_once):
        some = slice(i, i + heads_at_once)
        rows = []
        for j in range(0, length, queries_at_once):
            scores = q[some, j : j + queries_at_once] @ k[some].swapaxes(1, 2)
            if mask is not None:
                scores = scores + mask[some, j : j + queries_at_once]
            rows.append(softmax_numerator(scores.max(axis=-1, keepdims=True) - scores) @ v[some])
        blocks.append(rows[0] if len(rows) == 1 else mx.concatenate(rows, axis=1))
    out = blocks[0] if len(blocks) == 1 else mx.concatenate(blocks, axis=0)
    return (out[..., :size] / out[..., size:]).reshape(batch, heads, length, size)


def timestep_embedding(timesteps: mx.array, width: int, *, flip_sin_to_cos: bool, freq_shift: float) -> mx.array:
    """Sinusoidal embedding (Ho et al. 2020) of timesteps (N,), in fp32: (N, width), cosines first if flipped."""
    half = width // 2
    frequencies = mx.exp(mx.arange(half, dtype=mx.float32) * (-math.log(10_000) / (half - freq_shift)))
    angles = timesteps.astype(mx.float32)[:, None] * frequencies
    parts = [mx.cos(angles), mx.sin(angles)] if flip_sin_to_cos else [mx.sin(angles), mx.cos(angles)]
    embedding = mx.concatenate(parts, axis=-1)
    return mx.pad(embedding, [(0, 0), (0, 1)]) if width % 2 else embedding


class GroupNorm(nn.Module):
    """Group normalization with a gain and a bias for each channel; x (B, ..., C)."""

    def __init__(self, groups: int, channels: int, eps: float = 1e-5):
        super().__init__()
        self.groups = groups
        self.eps = eps
        self.weight = mx.ones(channels)
        self.bias = mx.zeros(channels)

    def __call__(self, x: mx.array) -> mx.array:
        return group_norm(x, self.weight, self.bias, self.groups, self.eps)


class GroupNormSiLU(GroupNorm):
    """Group normalization, then SiLU: they follow each other everywhere but in front of attention."""

    def __call__(self, x: mx.array) -> mx.array:
        return group_norm_silu(x, self.weight, self.bias, self.groups, self.eps)


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution, computed as the matmul that it is; x (B, ..., C)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 1)

    def __call__(self, x: mx.array) -> mx.array:
        return mx.addmm(self.bias, x, self.weight.reshape(self.weight.shape[0], -1).T)


class TimestepEmbedding(nn.Module):
    """Two-layer perceptron over an embedding (B, width); `condition` (B, condition_width) is projected and added."""

    def __init__(self, width: int, out_width: int, condition_width: int | None = None):
        super().__init__()
        self.linear_1 = nn.Linear(width, out_width)
        if condition_width is not None:
            self.cond_proj = nn.Linear(condition_width, width, bias=False)
        self.linear_2 = nn.Linear(out_width, out_width)

    def __call__(self, x: mx.array, condition: mx.array | None = None) -> mx.array:
        if condition is not None:
            x = x + self.cond_proj(condition)
        return self.linear_2(silu(self.linear_1(x)))


class ResnetBlock2D(nn.Module):
    """Two normalized 3x3 convolutions beside a shortcut: x (B, h, w, in_channels) -> (B, h, w, out_channels).

    `temb` (B, temb_channels) shifts what lies between the convolutions. It arrives with SiLU applied, once for all
    the blocks of a network.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        temb_channels: int | None = None,
        *,
        groups: int = 32,
        eps: float = 1e-6,
        out_scale: float = 1.0,
    ):
        super().__init__()
        self.out_scale = out_scale
        self.norm1 = GroupNormSiLU(groups, in_channels, eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        if temb_channels is not None:
            self.time_emb_proj = nn.Linear(temb_channels, out_channels)
        self.norm2 = GroupNormSiLU(groups, out_channels, eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.conv_shortcut = PointwiseConv2d(in_channels, out_channels)

    def __call__(self, x: mx.array, temb: mx.array | None = None) -> mx.array:
        h = self.conv1(self.norm1(x))
        if temb is not None:
            h = h + self.time_emb_proj(temb)[:, None, None, :]
        h = self.conv2(self.norm2(h))
        if "conv_shortcut" in self:
            x = self.conv_shortcut(x)
        return x + h if self.out_scale == 1 else (x + h) / self.out_scale


class Downsample2D(nn.Module):
    """Halves height and width by a 3x3 convolution; padding 0 pads below and to the right only, as the VAE does."""

    def __init__(self, channels: int, out_channels: int, padding: int = 1):
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv2d(channels, out_channels, 3, stride=2, padding=padding)

    def __call__(self, x: mx.array) -> mx.array:
        if self.padding == 0:
            x = mx.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)])
        return self.conv(x)


class Upsample2D(nn.Module):
    """Nearest-neighbour enlargement to twice the size, or to `size` (height, width), then a 3x3 convolution."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, 3, padding=1)

    def __call__(self, x: mx.array, size: tuple[int, int] | None = None) -> mx.array:
        return self.conv(enlarge(x, size))


def enlarge(x: mx.array, size: tuple[int, int] | None = None) -> mx.array:
    """Nearest-neighbour enlargement of x (B, h, w, C) to twice its size, or to `size` (height, width)."""
    batch, height, width, channels = x.shape
    if size is None or size == (2 * height, 2 * width):
        x = mx.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
        return x.reshape(batch, 2 * height, 2 * width, channels)
    rows = mx.arange(size[0]) * height // size[0]
    columns = mx.arange(size[1]) * width // size[1]
    return mx.take(mx.take(x, rows, axis=1), columns, axis=2)
