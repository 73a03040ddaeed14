"""T2I-Adapter (Mou et al. 2023): a small network that sees a picture once, and adds to the UNet at every step.

picture (B, H, W, c) -> pixel unshuffle -> body[0] -> body[1] -> ...    each gives one feature map
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import CheckpointError, UnsupportedError
from . import config as read
from .layers import Conv2d, PointwiseConv2d
from .unet_config import UNetConfig

FULL, FULL_XL, LIGHT = "full_adapter", "full_adapter_xl", "light_adapter"


@dataclass(frozen=True)
class T2IAdapterConfig:
    """`config.json` of a T2IAdapter.

    picture_channels  channels of the picture: 3 for RGB, 1 for gray
    channels          of the feature maps, the finest first
    blocks            residual blocks for each of them
    unshuffle         pixels along the side of what becomes one cell
    """

    kind: str
    picture_channels: int
    channels: tuple[int, ...]
    blocks: int
    unshuffle: int

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> T2IAdapterConfig:
        """Reads a `config.json`; CheckpointError for a wrong value, UnsupportedError for one not implemented."""
        kind = values.get("adapter_type", FULL)
        if kind not in (FULL, FULL_XL, LIGHT):
            raise UnsupportedError(
                f"The T2I-Adapter's config has adapter_type = {kind!r}, which mlxdiff does not implement.",
                f"Use one that is a {FULL}, a {FULL_XL} or a {LIGHT}.",
            )
        channels = read.wholes(values, "channels", (320, 640, 1280, 1280))
        unequal = kind == FULL_XL and len(set(channels[2:])) > 1  # no layer changes them there
        if len(channels) > 16 or unequal or (kind == LIGHT and any(width % 4 for width in channels)):
            raise CheckpointError(
                f"The T2I-Adapter's config has the channels {list(channels)[:20]}.", "Download it again."
            )
        return cls(
            kind,
            read.whole(values, "in_channels", 3, high=256),
            channels,
            read.whole(values, "num_res_blocks", 2, high=100),
            read.whole(values, "downscale_factor", 8, high=256),
        )

    @property
    def outputs(self) -> list[tuple[int, int]]:
        """(channels, pixels that a cell spans) of each feature map."""
        if self.kind == FULL_XL:
            return [(width, self.unshuffle * (1 if i < 2 else 2)) for i, width in enumerate(self.channels)]
        widths = self.channels if self.kind == FULL else (*self.channels, self.channels[-1])
        return [(width, self.unshuffle * 2**i) for i, width in enumerate(widths)]

    def fits(self, unet: UNetConfig, scale_factor: int) -> bool:
        """Whether each feature map has channels and size of what it is added to; a latent cell spans `scale_factor`."""
        places = []
        for level, width in enumerate(unet.block_out_channels):
            halvings = level if "CrossAttn" in unet.down_block_types[level] else min(level + 1, unet.levels - 1)
            places.append((width, scale_factor * 2**halvings))
        bottom = (unet.block_out_channels[-1], scale_factor * 2 ** (unet.levels - 1))
        return self.outputs in (places, [*places, bottom])


class _Residual(nn.Module):
    """A convolution, ReLU, another convolution, and the input added."""

    def __init__(self, channels: int, second: nn.Module):
        super().__init__()
        self.block1 = Conv2d(channels, channels, 3, padding=1)
        self.block2 = second

    def __call__(self, x: mx.array) -> mx.array:
        return self.block2(nn.relu(self.block1(x))) + x


class _Block(nn.Module):
    """Halves the input or not, changes its channels where they differ, then `n` residual blocks."""

    def __init__(self, in_channels: int, channels: int, n: int, *, halves: bool, kind: str):
        super().__init__()
        self.halves = halves
        width = channels // 4 if kind == LIGHT else channels
        if kind == LIGHT or in_channels != channels:
            self.in_conv = PointwiseConv2d(in_channels, width)
        self.resnets = [
            _Residual(width, Conv2d(width, width, 3, padding=1) if kind == LIGHT else PointwiseConv2d(width, width))
            for _ in range(n)
        ]
        if kind == LIGHT:
            self.out_conv = PointwiseConv2d(width, channels)

    def __call__(self, x: mx.array) -> mx.array:
        x = _halved(x) if self.halves else x
        x = self.in_conv(x) if "in_conv" in self else x
        for block in self.resnets:
            x = block(x)
        return self.out_conv(x) if "out_conv" in self else x


class _Adapter(nn.Module):
    def __init__(self, config: T2IAdapterConfig):
        super().__init__()
        seen = config.picture_channels * config.unshuffle**2
        outputs = config.outputs
        if config.kind != LIGHT:
            self.conv_in = Conv2d(seen, config.channels[0], 3, padding=1)
            seen = config.channels[0]
        self.body = []
        for i, (width, pixels) in enumerate(outputs):
            halves = i > 0 and pixels > outputs[i - 1][1]
            # diffusers' XL adapter changes channels in its second and third block alone.
            narrow = width if config.kind == FULL_XL and i not in (1, 2) else seen
            self.body.append(_Block(narrow, width, config.blocks, halves=halves, kind=config.kind))
            seen = width

    def __call__(self, x: mx.array) -> list[mx.array]:
        x = self.conv_in(x) if "conv_in" in self else x
        features = []
        for block in self.body:
            x = block(x)
            features.append(x)
        return features


class T2IAdapter(nn.Module):
    """The T2I-Adapter of a config; its parameters' paths are the keys of diffusers' state dict."""

    def __init__(self, config: T2IAdapterConfig):
        super().__init__()
        self.config = config
        self.adapter = _Adapter(config)

    @property
    def dtype(self) -> mx.Dtype:
        """The weights' dtype."""
        return self.adapter.body[0].resnets[0].block1.weight.dtype

    def __call__(self, picture: mx.array) -> list[mx.array]:
        """The feature maps (1, h, w, C) of a picture (1, H, W, c) in [0, 1], the finest first; unevaluated."""
        return self.adapter(_unshuffled(picture.astype(self.dtype), self.config.unshuffle))


def _unshuffled(x: mx.array, side: int) -> mx.array:
    """Squares of pixels to cells: (B, H, W, c) -> (B, H / side, W / side, c * side * side), as torch orders them."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // side, side, width // side, side, channels)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(batch, height // side, width // side, -1)


def _halved(x: mx.array) -> mx.array:
    """The mean of 2 x 2 cells; of what there are at an odd side's end."""
    batch, height, width, channels = x.shape
    x = mx.pad(x, [(0, 0), (0, height % 2), (0, width % 2), (0, 0)], mode="edge")
    return x.reshape(batch, -(-height // 2), 2, -(-width // 2), 2, channels).mean(axis=(2, 4))
