"""AutoencoderTiny (TAESD, Bohan 2023): a small VAE without norms and attention, in place of a model's own.

Decoding takes a few percent of the time that AutoencoderKL needs, for pictures that are a little less sharp. Encoding
has no spread: the latents of a picture are always the same. Attribute names are diffusers'.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import tee
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import CheckpointError, UnsupportedError
from . import config as read
from .layers import Conv2d, ReLU, enlarge
from .tiling import check_tile, convolve, strip_bytes
from .vae import MOST_CHANNELS, MOST_LEVELS

CLAMP = 3.0  # latents beyond it are pressed together, as in training
MOST_BLOCKS = 100
_HALVES = ("encoder", "decoder")


@dataclass(frozen=True)
class TinyVAEConfig:
    """`config.json` of an AutoencoderTiny, with diffusers' defaults.

    channels        inside, the same everywhere
    encoder_blocks  residual blocks at each level from the picture down; decoder_blocks: from the latents up
    scaling_factor, shift_factor  what `normalize` and `denormalize` undo
    has_encoder     whether its file has one: published decoders come alone, too
    """

    in_channels: int = 3
    out_channels: int = 3
    channels: int = 64
    latent_channels: int = 4
    encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    scaling_factor: float = 1.0
    shift_factor: float = 0.0
    has_encoder: bool = True

    force_upcast = False  # it does not overflow in fp16
    keeps_maps = False

    @property
    def largest_channels(self) -> int:
        """Channels of the largest map, by which decoding's memory is counted: twice, since nothing is freed earlier."""
        return 2 * self.channels

    @property
    def scale_factor(self) -> int:
        """Pixels a latent cell spans in each direction."""
        return 2 ** (len(self.decoder_blocks) - 1)

    @property
    def block_out_channels(self) -> tuple[int, ...]:
        """Channels at each level."""
        return (self.channels,) * len(self.decoder_blocks)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TinyVAEConfig:
        """Reads a `config.json`; CheckpointError for a wrong value, UnsupportedError for another autoencoder."""
        read.choice(values, "_class_name", "AutoencoderTiny", ("AutoencoderTiny",))
        read.choice(values, "act_fn", "relu", ("relu",))
        read.choice(values, "upsample_fn", "nearest", ("nearest",))
        read.choice(values, "upsampling_scaling_factor", 2, (2,))
        down, up = (read.wholes(values, f"{half}_block_out_channels", (cls.channels,) * 4) for half in _HALVES)
        channels = {*down, *up}
        if len(channels) > 1:
            raise _inconsistent(f"levels of {' and '.join(map(str, sorted(channels)))} channels")
        shift = read.optional_number(values, "shift_factor")
        config = cls(
            in_channels=read.whole(values, "in_channels", cls.in_channels, high=MOST_CHANNELS),
            out_channels=read.whole(values, "out_channels", cls.out_channels, high=MOST_CHANNELS),
            channels=channels.pop(),
            latent_channels=read.whole(values, "latent_channels", cls.latent_channels, high=MOST_CHANNELS),
            encoder_blocks=_blocks(values, "num_encoder_blocks", cls.encoder_blocks),
            decoder_blocks=_blocks(values, "num_decoder_blocks", cls.decoder_blocks),
            scaling_factor=read.positive(values, "scaling_factor", cls.scaling_factor),
            shift_factor=0.0 if shift is None else shift,
            has_encoder=read.flag(values, "has_encoder", cls.has_encoder),
        )
        levels = {len(each) for each in (down, up, config.encoder_blocks, config.decoder_blocks)}
        if len(levels) > 1 or max(levels) > MOST_LEVELS:
            raise _inconsistent(f"{' and '.join(map(str, sorted(levels)))} levels")
        return config


def _blocks(values: Mapping[str, Any], key: str, default: tuple[int, ...]) -> tuple[int, ...]:
    return read.wholes(values, key, default, low=0, high=MOST_BLOCKS)


def _inconsistent(what: str) -> CheckpointError:
    return CheckpointError(f"The tiny VAE's config has {what}.", "Download the model again.")


class AutoencoderTiny(nn.Module):
    """Encoder and decoder, each a chain of layers: B,H,W,3 <--> B,H/f,W/f,C."""

    def __init__(self, config: TinyVAEConfig):
        super().__init__()
        self.config = config
        if config.has_encoder:
            self.encoder = Chain(_encoder(config))
        self.decoder = Chain(_decoder(config))

    @property
    def scale_factor(self) -> int:
        """Pixels a latent cell spans in each direction."""
        return self.config.scale_factor

    @property
    def dtype(self) -> mx.Dtype:
        """The weights' dtype, which inputs should have."""
        return self.decoder.layers[0].weight.dtype

    def encode(self, images: mx.array) -> tuple[mx.array, None]:
        """Pictures (B, H, W, 3) in [-1, 1] to latents (B, H/f, W/f, C); there is no variance to draw from.

        Raises UnsupportedError where there is no encoder.
        """
        if "encoder" not in self:
            raise UnsupportedError(
                "The VAE has a decoder alone, and the picture would have to be encoded.",
                "Give one with both: a folder, or taesd_encoder.safetensors beside taesd_decoder.safetensors.",
            )
        return self.encoder((images + 1) / 2), None

    def decode(self, z: mx.array) -> mx.array:
        """Latents (B, h, w, C) to pictures (B, h*f, w*f, 3) of about [-1, 1], not clipped."""
        return self.decoder(mx.tanh(z / CLAMP) * CLAMP) * 2 - 1

    def normalize(self, z: mx.array) -> mx.array:
        """The network's latents (..., C) to those that the UNet sees."""
        return (z - self.config.shift_factor) * self.config.scaling_factor

    def denormalize(self, latents: mx.array) -> mx.array:
        """The inverse of `normalize`."""
        return latents / self.config.scaling_factor + self.config.shift_factor


class Chain(nn.Module):
    """Layers, one after the other."""

    def __init__(self, layers: list[nn.Module]):
        super().__init__()
        self.layers: list[Any] = layers

    def __call__(self, x: mx.array) -> mx.array:
        for layer in self.layers:
            x = layer(x)
        return x


class Block(nn.Module):
    """Three 3x3 convolutions beside a shortcut, and a ReLU behind their sum."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv: list[Any] = [
            _conv(channels, channels),
            ReLU(),
            _conv(channels, channels),
            ReLU(),
            _conv(channels, channels),
        ]

    def __call__(self, x: mx.array) -> mx.array:
        h = x
        for layer in self.conv:
            h = layer(h)
        return mx.maximum(h + x, 0)


class Upsample(nn.Module):
    """Nearest-neighbour enlargement to twice the size."""

    def __call__(self, x: mx.array) -> mx.array:
        return enlarge(x)


class BareConv2d(Conv2d):
    """A 3x3 convolution of x (B, h, w, C) without a bias."""

    def __init__(self, channels: int, *, stride: int = 1):
        super().__init__(channels, channels, 3, stride=stride, padding=1, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.convolve(x)


def _conv(inputs: int, outputs: int) -> Conv2d:
    return Conv2d(inputs, outputs, 3, padding=1)


def _encoder(config: TinyVAEConfig) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for level, blocks in enumerate(config.encoder_blocks):
        layers.append(BareConv2d(config.channels, stride=2) if level else _conv(config.in_channels, config.channels))
        layers += [Block(config.channels) for _ in range(blocks)]
    return [*layers, _conv(config.channels, config.latent_channels)]


def _decoder(config: TinyVAEConfig) -> list[nn.Module]:
    layers: list[nn.Module] = [_conv(config.latent_channels, config.channels), ReLU()]
    for level, blocks in enumerate(config.decoder_blocks):
        if level:
            layers += [Upsample(), BareConv2d(config.channels)]
        layers += [Block(config.channels) for _ in range(blocks)]
    return [*layers, _conv(config.channels, config.out_channels)]


def decode_streamed(vae: AutoencoderTiny, z: mx.array, tile: int) -> mx.array:
    """`vae.decode(z)` up to floating-point rounding, in strips of rows of at most `tile` x `tile` pixels each.

    A strip goes through all layers before the next one is begun; each layer keeps the rows that its neighbour still
    needs, so that no map is ever whole. Not lazy, one picture at a time. Raises RequestError for a tile that is not a
    positive multiple of f.
    """
    check_tile(tile, vae.scale_factor)

    def cut(x: mx.array, scale: int = 1) -> Iterator[mx.array]:
        """Strips that are small enough when they are enlarged to `scale` times the size."""
        width = x.shape[2] * scale
        room = strip_bytes() // (width * vae.config.channels * x.dtype.size)
        rows = max(1, min(tile * tile // width, room) // scale)
        yield from (x[:, i : i + rows] for i in range(0, x.shape[1], rows))

    def through(layers: Iterable[Any], strips: Iterator[mx.array]) -> Iterator[mx.array]:
        for layer in layers:
            strips = passed(layer, strips)
        return strips

    def passed(layer: Any, strips: Iterator[mx.array]) -> Iterator[mx.array]:
        if isinstance(layer, Conv2d):
            return map(_evaluated, convolve(layer, strips, lambda strip: strip))
        if isinstance(layer, Block):
            inner, beside = tee(strips)
            return (mx.maximum(h + x, 0) for h, x in zip(through(layer.conv, inner), beside, strict=True))
        if isinstance(layer, Upsample):
            return (enlarge(piece) for strip in strips for piece in cut(strip, 2))
        return map(layer, strips)

    def decoded(one: mx.array) -> mx.array:
        strips = through(vae.decoder.layers, cut(mx.tanh(one / CLAMP) * CLAMP))
        return mx.concatenate([_evaluated(strip * 2 - 1) for strip in strips], axis=1)

    return mx.concatenate([decoded(z[i : i + 1]) for i in range(z.shape[0])])


def _evaluated(array: mx.array) -> mx.array:
    mx.eval(array)
    return array
