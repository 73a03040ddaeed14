"""Layers that more than one network is built of: norms, resnet block, resampling.

Arrays are NHWC. Attribute names are diffusers', so that parameter paths equal its state-dict keys. What is worth a
kernel of its own is computed in ../kernels.
"""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..kernels import upsample
from ..kernels.activations import silu
from ..kernels.conv import conv2d
from ..kernels.group_norm import group_norm, group_norm_silu
from ..kernels.layer_norm import layer_norm
from ..kernels.linear import linear
from ..kernels.packing import packed
from ..kernels.quantized import quantized_product
from ..kernels.residual import add_biased
from ..kernels.stream import Stream, add, add_linear, linear_of


def timestep_embedding(timesteps: mx.array, width: int, *, flip_sin_to_cos: bool, freq_shift: float) -> mx.array:
    """Sinusoidal embedding (Ho et al. 2020) of timesteps (N,), in fp32: (N, width), cosines first if flipped."""
    half = width // 2
    frequencies = mx.exp(mx.arange(half, dtype=mx.float32) * (-math.log(10_000) / (half - freq_shift)))
    angles = timesteps.astype(mx.float32)[:, None] * frequencies
    parts = [mx.cos(angles), mx.sin(angles)] if flip_sin_to_cos else [mx.sin(angles), mx.cos(angles)]
    embedding = mx.concatenate(parts, axis=-1)
    return mx.pad(embedding, [(0, 0), (0, 1)]) if width % 2 else embedding


PACKED = "packed"
"""Where a layer has its weight once it is packed: in place of `weight`."""

PHASES = "phases"
"""Where the convolution behind an enlargement has the weights of its phases (kernels/upsample.py), beside `weight`."""


def stored(layer: nn.Linear | nn.Conv2d) -> mx.array:
    """The layer's weight, packed or not."""
    return layer[PACKED] if PACKED in layer else layer["weight"]


def unpacked_name(path: str) -> str:
    """A parameter's path as it was before packing."""
    return f"{path.removesuffix(PACKED)}weight" if path.rpartition(".")[2] == PACKED else path


def pack(network: nn.Module) -> None:
    """Brings the weights of linear layers and convolutions into the order in which the native extension reads them.

    Once the weights are loaded and nothing changes them any more. What it cannot read so keeps its weight, as does
    everything where there is no extension. On NVIDIA GPUs the convolution behind an enlargement gets the weights of its
    phases.
    """
    for layer in network.modules():
        if isinstance(layer, Upsample2D) and (weights := upsample.phases(stored(layer.conv))) is not None:
            layer.conv[PHASES] = weights
        if not isinstance(layer, Linear | Conv2d | PointwiseConv2d) or PACKED in layer:
            continue
        weight = layer.weight
        if isinstance(layer, PointwiseConv2d):
            weight = weight.reshape(weight.shape[0], -1)
        if (array := packed(weight)) is not None:
            layer.pop("weight")
            layer[PACKED] = array


class GroupNorm(nn.Module):
    """Group normalization with a gain and a bias for each channel; x (B, ..., C), shift (B or 1, C)."""

    def __init__(self, groups: int, channels: int, eps: float = 1e-5):
        super().__init__()
        self.groups = groups
        self.eps = eps
        self.weight = mx.ones(channels)
        self.bias = mx.zeros(channels)

    def __call__(self, x: mx.array, shift: mx.array | None = None) -> mx.array:
        return group_norm(x, self.weight, self.bias, self.groups, self.eps, shift)


class GroupNormSiLU(GroupNorm):
    """Group normalization, then SiLU: they follow each other everywhere but in front of attention."""

    def __call__(self, x: mx.array, shift: mx.array | None = None) -> mx.array:
        return group_norm_silu(x, self.weight, self.bias, self.groups, self.eps, shift)


class LayerNorm(nn.LayerNorm):
    """Layer normalization with a gain and a bias for each channel; x (..., C), shift (C,)."""

    def __call__(self, x: mx.array, shift: mx.array | None = None) -> mx.array:
        return layer_norm(x, self.weight, self.bias, self.eps, shift)


class Linear(nn.Linear):
    """A linear layer of x (..., C) whose bias can be left to what comes behind it."""

    def product(self, x: mx.array) -> mx.array:
        """The layer without its bias."""
        return linear(x, stored(self))

    def __call__(self, x: mx.array) -> mx.array:
        return linear(x, stored(self), self.get("bias"))

    def add_to(self, stream: Stream, x: mx.array) -> Stream:
        """The stream with the layer of x."""
        return add_linear(stream, x, stored(self), self.bias)

    def of_stream(self, stream: Stream) -> tuple[mx.array, mx.array]:
        """The layer of a stream without its bias, and that."""
        return linear_of(stream, stored(self), self.bias)

    def to_quantized(
        self, group_size: int | None = None, bits: int | None = None, mode: str = "affine", quantize_input: bool = False
    ) -> QuantizedLinear:
        """What `nn.quantize` puts in this layer's place; inputs are never quantized."""
        del quantize_input
        # MLX's annotations leave out that None is its default.
        return QuantizedLinear.from_linear(self, group_size, bits, mode)  # pyright: ignore[reportArgumentType]


class OnStreams:
    """What a layer with a `product` and a `bias` does with streams, where its matrix is not there as it is."""

    def add_to(self: Any, stream: Stream, x: mx.array) -> Stream:
        """The stream with the layer of x."""
        return add(stream, self.product(x), self.bias)

    def of_stream(self: Any, stream: Stream) -> tuple[mx.array, mx.array]:
        """The layer of a stream without its bias, and that."""
        return self.product(stream.whole()), self.bias


class QuantizedLinear(OnStreams, nn.QuantizedLinear):
    """A linear layer of 8 or 4 bits."""

    def product(self, x: mx.array, low_rank: tuple[mx.array, mx.array] | None = None) -> mx.array:
        """The layer without its bias; `low_rank` is a change of its matrix, see quantized_product."""
        packed = self.weight, self.scales, self.get("biases")
        return quantized_product(x, *packed, group_size=self.group_size, bits=self.bits, low_rank=low_rank)

    def __call__(self, x: mx.array) -> mx.array:
        return self.product(x) + self.bias if "bias" in self else self.product(x)


class Conv2d(nn.Conv2d):
    """A convolution of x (B, h, w, C) whose bias can be left to what comes behind it."""

    def convolve(self, x: mx.array) -> mx.array:
        """The convolution without its bias."""
        return conv2d(x, stored(self), stride=self.stride[0], padding=self.padding[0])

    def __call__(self, x: mx.array) -> mx.array:
        return conv2d(x, stored(self), self.bias, stride=self.stride[0], padding=self.padding[0])


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution, computed as the matmul that it is; x (B, ..., C)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 1)

    def _matrix(self) -> mx.array:
        return self[PACKED] if PACKED in self else self.weight.reshape(self.weight.shape[0], -1)

    def __call__(self, x: mx.array) -> mx.array:
        return linear(x, self._matrix(), self.bias)

    def of_stream(self, stream: Stream) -> tuple[mx.array, mx.array]:
        """The layer of a stream without its bias, and that."""
        return linear_of(stream, self._matrix(), self.bias)


class TimestepEmbedding(nn.Module):
    """Two-layer perceptron over an embedding (B, width); `condition` (B, condition_width) is projected and added."""

    def __init__(self, width: int, out_width: int, condition_width: int | None = None):
        super().__init__()
        self.linear_1 = Linear(width, out_width)
        if condition_width is not None:
            self.cond_proj = Linear(condition_width, width, bias=False)
        self.linear_2 = Linear(out_width, out_width)

    def __call__(self, x: mx.array, condition: mx.array | None = None) -> mx.array:
        if condition is not None:
            x = x + self.cond_proj(condition)
        return self.linear_2(silu(self.linear_1(x)))


class ResnetBlock2D(nn.Module):
    """Two normalized 3x3 convolutions beside a shortcut: x (B, h, w, in_channels) -> (B, h, w, out_channels).

    What lies between the convolutions is shifted by the timestep (see `time_shift`), if there are `temb_channels`.
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
        self.conv1 = Conv2d(in_channels, out_channels, 3, padding=1)
        if temb_channels is not None:
            self.time_emb_proj = Linear(temb_channels, out_channels)
        self.norm2 = GroupNormSiLU(groups, out_channels, eps)
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.conv_shortcut = PointwiseConv2d(in_channels, out_channels)

    def time_shift(self, temb: mx.array) -> mx.array:
        """What `temb` (B, temb_channels), which has SiLU applied, and conv1's bias add behind conv1: (B, C)."""
        return self.time_emb_proj(temb) + self.conv1.bias

    def __call__(self, x: mx.array, shift: mx.array | None = None) -> mx.array:
        """`shift` (B or 1, C) is a timestep's `time_shift`; None where the block has no `temb_channels`."""
        h = self.norm2(self.conv1.convolve(self.norm1(x)), self.conv1.bias[None] if shift is None else shift)
        if "conv_shortcut" in self:
            x = self.conv_shortcut(x)
        out = add_biased(x, self.conv2.convolve(h), self.conv2.bias)
        return out if self.out_scale == 1 else out / self.out_scale


class Downsample2D(nn.Module):
    """Halves height and width by a 3x3 convolution; padding 0 pads below and to the right only, as the VAE does."""

    def __init__(self, channels: int, out_channels: int, padding: int = 1):
        super().__init__()
        self.padding = padding
        self.conv = Conv2d(channels, out_channels, 3, stride=2, padding=padding)

    def __call__(self, x: mx.array) -> mx.array:
        if self.padding == 0:
            x = mx.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)])
        return self.conv(x)


class Upsample2D(nn.Module):
    """Nearest-neighbour enlargement to twice the size, or to `size` (height, width), then a 3x3 convolution."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.conv = Conv2d(channels, out_channels, 3, padding=1)

    def __call__(self, x: mx.array, size: tuple[int, int] | None = None) -> mx.array:
        if PHASES in self.conv and size in (None, (2 * x.shape[1], 2 * x.shape[2])):
            return upsample.convolve_enlarged(x, self.conv[PHASES], self.conv.bias)
        return self.conv(enlarge(x, size))


class ReLU(nn.Module):
    """Nothing for negative numbers."""

    def __call__(self, x: mx.array) -> mx.array:
        return mx.maximum(x, 0)


def enlarge(x: mx.array, size: tuple[int, int] | None = None) -> mx.array:
    """Nearest-neighbour enlargement of x (B, h, w, C) to twice its size, or to `size` (height, width)."""
    batch, height, width, channels = x.shape
    if size is None or size == (2 * height, 2 * width):
        x = mx.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
        return x.reshape(batch, 2 * height, 2 * width, channels)
    rows = mx.arange(size[0]) * height // size[0]
    columns = mx.arange(size[1]) * width // size[1]
    return mx.take(mx.take(x, rows, axis=1), columns, axis=2)
