"""Layers that more than one network is built of: activations, norm, attention, resnet block, resampling.

Arrays are NHWC. Attribute names are diffusers', so that parameter paths equal its state-dict keys.
`silu`, `group_norm` and `attention` are the one place each where an operation is computed.
"""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn

# mlx.nn's activations are wrapped in mx.compile, which on a CPU runs a C++ compiler for a second: plain ones here.


def silu(x: mx.array) -> mx.array:
    """x * sigmoid(x)."""
    return x * mx.sigmoid(x)


def gelu(x: mx.array) -> mx.array:
    """Exact GELU, with the error function."""
    return x * ((1 + mx.erf(x * math.sqrt(0.5))) * 0.5)


def quick_gelu(x: mx.array) -> mx.array:
    """The approximation x * sigmoid(1.702 x) that the first CLIP was trained with."""
    return x * mx.sigmoid(1.702 * x)


def group_norm(x: mx.array, weight: mx.array, bias: mx.array, groups: int, eps: float) -> mx.array:
    """Group normalization (Wu and He 2018) of x (B, ..., C) over all but the batch and within groups of channels."""
    batch, channels = x.shape[0], x.shape[-1]
    rows = x.reshape(batch, -1, groups, channels // groups).astype(mx.float32)
    mean = rows.mean(axis=(1, 3), keepdims=True)
    scale = mx.rsqrt(rows.var(axis=(1, 3), keepdims=True) + eps) * weight.reshape(groups, -1)
    return (rows * scale + (bias.reshape(groups, -1) - mean * scale)).astype(x.dtype).reshape(x.shape)


def attention(
    q: mx.array, k: mx.array, v: mx.array, *, heads: int, mask: mx.array | None = None, upcast: bool = False
) -> mx.array:
    """Scaled dot-product attention of q (B, T, D) to k and v (B, S, D), D = heads x head size; (B, T, D).

    `mask` is added to the scores and broadcasts to (B, heads, T, S). `upcast` asks for scores in fp32.
    """
    batch, length, width = q.shape
    size = width // heads
    dtype = q.dtype
    if upcast:
        q, k, v = (a.astype(mx.float32) for a in (q, k, v))
    q, k, v = (a.reshape(batch, -1, heads, size).transpose(0, 2, 1, 3) for a in (q, k, v))
    out = mx.fast.scaled_dot_product_attention(q, k, v, scale=size**-0.5, mask=mask)
    return out.transpose(0, 2, 1, 3).reshape(batch, length, width).astype(dtype)


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
    """Two normalized 3x3 convolutions beside a shortcut; `temb` (B, temb_channels) shifts what lies between them."""

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
        self.norm1 = GroupNorm(groups, in_channels, eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        if temb_channels is not None:
            self.time_emb_proj = nn.Linear(temb_channels, out_channels)
        self.norm2 = GroupNorm(groups, out_channels, eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def __call__(self, x: mx.array, temb: mx.array | None = None) -> mx.array:
        h = self.conv1(silu(self.norm1(x)))
        if temb is not None:
            h = h + self.time_emb_proj(silu(temb))[:, None, None, :]
        h = self.conv2(silu(self.norm2(h)))
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
