"""Networks that enlarge pictures: RRDBNet (ESRGAN, Wang et al. 2018) and SRVGGNetCompact (Real-ESRGAN, 2021).

Both are convolutions alone, so that what a pixel depends on has an edge: `reach`. Each has two halves. `body` works on
cells, which are the picture's pixels or, where a network begins by packing them, squares of pixels; `head` makes a
square of pixels of each cell. Attribute names are Real-ESRGAN's, pictures are RGB (B, H, W, 3) in [0, 1].
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..errors import CheckpointError, UnsupportedError
from .layers import Conv2d, ReLU, enlarge

Shape = tuple[int, ...]

RRDB, COMPACT = "ESRGAN (RRDB)", "Real-ESRGAN compact"
COLOURS = 3
MOST_CHANNELS, MOST_BLOCKS, MOST_FACTOR = 1024, 200, 8
DENSE = 5  # convolutions of a dense block
SLOPE, RESIDUAL = 0.2, 0.2

_WANTED = "mlxdiff enlarges with ESRGAN, Real-ESRGAN and Real-ESRGAN compact networks for RGB pictures."


@dataclass(frozen=True)
class UpscalerConfig:
    """What an upscaler's weights say of it.

    kind      RRDB or COMPACT
    features  channels inside
    blocks    RRDB blocks, or convolutions between the first and the last one
    growth    channels that a convolution of a dense block adds; 0 for COMPACT
    packed    pixels a side of a cell: 1, or 2 or 4 where the network packs them first
    cell      pixels a side that a cell becomes
    prelu     whether COMPACT's activations have slopes of their own
    """

    kind: str
    features: int
    blocks: int
    growth: int
    packed: int
    cell: int
    prelu: bool = False

    @property
    def factor(self) -> int:
        """How many times as wide and as high a picture becomes."""
        return self.cell // self.packed

    @property
    def reach(self) -> int:
        """Cells on each side that a cell of the body depends on."""
        return 3 * DENSE * self.blocks + 2 if self.kind == RRDB else self.blocks + 1

    @property
    def head_reach(self) -> int:
        """Cells on each side that a pixel of the head depends on: an ESRGAN's shares of cells add up to less than 2."""
        return 2 if self.kind == RRDB else 1

    @property
    def widest(self) -> int:
        """Channels of the largest input of a convolution of the body."""
        return self.features + (DENSE - 1) * self.growth

    @classmethod
    def of(cls, shapes: Mapping[str, Shape], source: str) -> UpscalerConfig:
        """Tells a network from its weights' names and shapes (torch's). Raises UnsupportedError and CheckpointError.

        What is read here decides sizes; whether every other weight fits them is checked when they are loaded.
        """
        if "conv_first.weight" in shapes and "conv_last.weight" in shapes:
            return cls._rrdb(shapes, source)
        if len(shapes.get("body.0.weight", ())) == 4:
            return cls._compact(shapes, source)
        raise UnsupportedError(f"{source} is no upscaler that mlxdiff knows.", _WANTED)

    @classmethod
    def _rrdb(cls, shapes: Mapping[str, Shape], source: str) -> UpscalerConfig:
        features, inputs = _conv(shapes, "conv_first", source)
        outputs, _ = _conv(shapes, "conv_last", source)
        blocks = _count(shapes, r"body\.(\d+)\..*")
        growth, _ = _conv(shapes, "body.0.rdb1.conv1", source)
        ups = _count(shapes, r"conv_up(\d+)\.weight", first=1)
        packed = math.isqrt(inputs // COLOURS)
        if outputs != COLOURS or inputs != COLOURS * packed**2:
            raise _colours(source, inputs, outputs)
        return cls(RRDB, features, blocks, growth, packed, 2**ups)._checked(source)

    @classmethod
    def _compact(cls, shapes: Mapping[str, Shape], source: str) -> UpscalerConfig:
        features, inputs = _conv(shapes, "body.0", source)
        last = max(int(match[1]) for name in shapes if (match := re.fullmatch(r"body\.(\d{1,4})\.\w+", name)))
        outputs, _ = _conv(shapes, f"body.{last}", source)
        cell = math.isqrt(outputs // COLOURS)
        if inputs != COLOURS or outputs != COLOURS * cell**2:
            raise _colours(source, inputs, outputs)
        prelu = "body.1.weight" in shapes
        return cls(COMPACT, features, last // 2 - 1, 0, 1, cell, prelu)._checked(source)

    def _checked(self, source: str) -> UpscalerConfig:
        if not (1 <= self.features <= MOST_CHANNELS and self.growth <= MOST_CHANNELS and self.blocks <= MOST_BLOCKS):
            raise CheckpointError(
                f"{source} would be an upscaler of {self.features} channels and {self.blocks} blocks.", _WANTED
            )
        if self.blocks < 1 or self.packed not in (1, 2, 4) or self.cell % self.packed or self.cell == 0:
            raise CheckpointError(f"{source} is no sound upscaler: its convolutions do not fit together.", _WANTED)
        if self.factor > MOST_FACTOR:
            raise UnsupportedError(f"{source} enlarges {self.factor} times.", f"At most {MOST_FACTOR} are possible.")
        return self


class _Network(nn.Module):
    """What both have in common."""

    config: UpscalerConfig

    @property
    def dtype(self) -> mx.Dtype:
        """The weights' dtype, which inputs should have."""
        parameters: dict[str, mx.array] = dict(tree_flatten(self.parameters()))
        return next(iter(parameters.values())).dtype


class RRDBNet(_Network):
    """Residual blocks of residual dense blocks, then as many doublings as the factor needs."""

    def __init__(self, config: UpscalerConfig):
        super().__init__()
        self.config = config
        width, self.doublings = config.features, config.cell.bit_length() - 1
        self.conv_first = _conv3(COLOURS * config.packed**2, width)
        self.body = [ResidualInResidual(width, config.growth) for _ in range(config.blocks)]
        self.conv_body = _conv3(width, width)
        for i in range(self.doublings):
            self[f"conv_up{i + 1}"] = _conv3(width, width)
        self.conv_hr = _conv3(width, width)
        self.conv_last = _conv3(width, COLOURS)

    def body_steps(self, cells: mx.array) -> Iterator[mx.array]:
        """Maps (B, h, w, C) of cells (B, h, w, 3 p p) after each dense block, unevaluated; the last: features."""
        first = x = self.conv_first(cells)
        for block in self.body:
            inner = x
            for dense in (block.rdb1, block.rdb2, block.rdb3):
                inner = dense(inner)
                yield inner
            x = inner * RESIDUAL + x
        yield first + self.conv_body(x)

    def head(self, features: mx.array, cells: mx.array) -> mx.array:
        """Features (B, h, w, C) to pictures (B, h c, w c, 3)."""
        del cells
        x = features
        for i in range(self.doublings):
            x = _leaky(self[f"conv_up{i + 1}"](enlarge(x)))
        return self.conv_last(_leaky(self.conv_hr(x)))


class ResidualInResidual(nn.Module):
    """The three dense blocks that have a shortcut beside them (RRDB)."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        self.rdb1 = DenseBlock(width, growth)
        self.rdb2 = DenseBlock(width, growth)
        self.rdb3 = DenseBlock(width, growth)


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees what all before it made."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        for i in range(DENSE):
            self[f"conv{i + 1}"] = _conv3(width + i * growth, growth if i < DENSE - 1 else width)

    def __call__(self, x: mx.array) -> mx.array:
        seen = x
        for i in range(DENSE - 1):
            seen = mx.concatenate([seen, _leaky(self[f"conv{i + 1}"](seen))], axis=-1)
        return self[f"conv{DENSE}"](seen) * RESIDUAL + x


class SRVGGNetCompact(_Network):
    """A chain of convolutions whose last one makes a cell's pixels, added to the picture enlarged."""

    def __init__(self, config: UpscalerConfig):
        super().__init__()
        self.config = config
        width = config.features
        self.body: list[nn.Module] = [_conv3(COLOURS, width)]
        for _ in range(config.blocks):
            self.body += [PReLU(width) if config.prelu else ReLU(), _conv3(width, width)]
        self.body += [PReLU(width) if config.prelu else ReLU(), _conv3(width, COLOURS * config.cell**2)]

    EVALUATED: ClassVar[int] = 4  # layers at once

    def body_steps(self, cells: mx.array) -> Iterator[mx.array]:
        """Maps (B, h, w, C) of pixels (B, h, w, 3), some layers at a time, unevaluated; the last are the features."""
        x = cells
        for i, layer in enumerate(self.body[:-1], start=1):
            x = layer(x)  # pyright: ignore[reportCallIssue]
            if i % self.EVALUATED == 0 or i == len(self.body) - 1:
                yield x

    def head(self, features: mx.array, cells: mx.array) -> mx.array:
        """Features (B, h, w, C) and pixels (B, h, w, 3) to pictures (B, h c, w c, 3)."""
        detail = self.body[-1](features)  # pyright: ignore[reportCallIssue]
        _, height, width, _ = cells.shape
        size = height * self.config.cell, width * self.config.cell
        return unpack(detail, self.config.cell) + enlarge(cells, size)


class PReLU(nn.Module):
    """A slope for negative numbers in each channel (He et al. 2015)."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = mx.full(channels, 0.25)

    def __call__(self, x: mx.array) -> mx.array:
        return mx.maximum(x, 0) + self.weight * mx.minimum(x, 0)


Upscaler = RRDBNet | SRVGGNetCompact


def build(config: UpscalerConfig) -> Upscaler:
    """The network, with its initial, unevaluated weights."""
    return RRDBNet(config) if config.kind == RRDB else SRVGGNetCompact(config)


def pack(pictures: mx.array, side: int) -> mx.array:
    """Pictures (B, h s, w s, C) to cells (B, h, w, C s s), in the order of torch's pixel_unshuffle."""
    batch, height, width, channels = pictures.shape
    if side == 1:
        return pictures
    x = pictures.reshape(batch, height // side, side, width // side, side, channels)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(batch, height // side, width // side, -1)


def unpack(cells: mx.array, side: int) -> mx.array:
    """The inverse of `pack`: torch's pixel_shuffle."""
    batch, height, width, _ = cells.shape
    x = cells.reshape(batch, height, width, -1, side, side)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(batch, height * side, width * side, -1)


def _conv3(inputs: int, outputs: int) -> Conv2d:
    return Conv2d(inputs, outputs, 3, padding=1)


def _leaky(x: mx.array) -> mx.array:
    return mx.maximum(x, SLOPE * x)


def _conv(shapes: Mapping[str, Shape], name: str, source: str) -> tuple[int, int]:
    """Output and input channels of a 3x3 convolution."""
    shape = shapes.get(f"{name}.weight", ())
    if len(shape) != 4 or shape[2:] != (3, 3):
        raise CheckpointError(f"{source} is no sound upscaler: it has no 3x3 convolution {name!r}.", _WANTED)
    return shape[0], shape[1]


def _count(shapes: Mapping[str, Shape], pattern: str, *, first: int = 0) -> int:
    """How many numbers from `first` on stand in the names that fit, without a gap."""
    found = {int(match[1]) for name in shapes if (match := re.fullmatch(pattern, name)) and len(match[1]) < 5}
    count = 0
    while first + count in found:
        count += 1
    return count


def _colours(source: str, inputs: int, outputs: int) -> UnsupportedError:
    what = "is for gray pictures" if inputs == 1 else f"takes {inputs} channels and gives {outputs}"
    return UnsupportedError(f"{source} {what}.", _WANTED)
