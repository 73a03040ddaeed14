"""AutoencoderKL, the VAE between pictures and latents (Rombach et al. 2022): B,H,W,3 <--> B,H/f,W/f,C.

It works on raw numbers: pictures of about [-1, 1], and latents of whatever spread it was trained to; `normalize` and
`denormalize` go between those and the unit spread that the UNet sees. Attribute names are diffusers'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import CheckpointError, UnsupportedError
from ..kernels.attention import attention
from . import config as read
from .layers import Conv2d, Downsample2D, GroupNorm, GroupNormSiLU, Linear, PointwiseConv2d, ResnetBlock2D, Upsample2D

# What decides how large latents and pictures are; published VAEs have up to 128 channels and 6 levels.
MOST_CHANNELS = 256
MOST_LEVELS = 8

# Every norm of the VAE, where the UNet's resnet blocks have 1e-5.
EPS = 1e-6

# What diffusers clamps the posterior's log-variance to.
MIN_LOGVAR, MAX_LOGVAR = -30.0, 20.0


@dataclass(frozen=True)
class VAEConfig:
    """`config.json` of an AutoencoderKL, with diffusers' defaults.

    scaling_factor, shift_factor, latents_mean, latents_std  what `normalize` and `denormalize` undo
    force_upcast  whether the VAE overflows in fp16
    keeps_maps    whether decoding in strips still keeps whole maps, as norms over a picture need them
    """

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    keeps_maps = True

    @property
    def largest_channels(self) -> int:
        """Channels of the largest map, by which decoding's memory is counted."""
        return max(self.block_out_channels[:2])

    @property
    def scale_factor(self) -> int:
        """Pixels a latent cell spans in each direction."""
        return 2 ** (len(self.block_out_channels) - 1)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VAEConfig:
        """Reads a `config.json`; CheckpointError for a wrong value, UnsupportedError for another autoencoder."""
        read.choice(values, "_class_name", "AutoencoderKL", ("AutoencoderKL",))
        read.choice(values, "act_fn", "silu", ("silu", "swish"))
        blocks = {
            "down_block_types": read.choices(
                values, "down_block_types", ("DownEncoderBlock2D",), ("DownEncoderBlock2D",)
            ),
            "up_block_types": read.choices(values, "up_block_types", ("UpDecoderBlock2D",), ("UpDecoderBlock2D",)),
        }
        config = cls(
            in_channels=read.whole(values, "in_channels", cls.in_channels, high=MOST_CHANNELS),
            out_channels=read.whole(values, "out_channels", cls.out_channels, high=MOST_CHANNELS),
            block_out_channels=read.wholes(values, "block_out_channels", cls.block_out_channels),
            layers_per_block=read.whole(values, "layers_per_block", cls.layers_per_block, high=100),
            latent_channels=read.whole(values, "latent_channels", cls.latent_channels, high=MOST_CHANNELS),
            norm_num_groups=read.whole(values, "norm_num_groups", cls.norm_num_groups),
            scaling_factor=read.positive(values, "scaling_factor", cls.scaling_factor),
            shift_factor=read.optional_number(values, "shift_factor"),
            latents_mean=read.optional_numbers(values, "latents_mean"),
            latents_std=read.optional_numbers(values, "latents_std"),
            force_upcast=read.flag(values, "force_upcast", cls.force_upcast),
            use_quant_conv=read.flag(values, "use_quant_conv", cls.use_quant_conv),
            use_post_quant_conv=read.flag(values, "use_post_quant_conv", cls.use_post_quant_conv),
            mid_block_add_attention=read.flag(values, "mid_block_add_attention", cls.mid_block_add_attention),
        )
        for key, types in blocks.items():
            if len(types) != len(config.block_out_channels):
                raise _inconsistent(f"{len(types)} {key} for {len(config.block_out_channels)} block_out_channels")
        config._check()
        return config

    def _check(self) -> None:
        if len(self.block_out_channels) > MOST_LEVELS:
            raise _inconsistent(f"{len(self.block_out_channels)} block_out_channels, more than {MOST_LEVELS}")
        for channels in self.block_out_channels:
            if channels % self.norm_num_groups != 0:
                raise _inconsistent(
                    f"{channels} channels, which norm_num_groups {self.norm_num_groups} does not divide"
                )
        if (self.latents_mean is None) != (self.latents_std is None):
            raise _inconsistent("one of latents_mean and latents_std without the other")
        for key, numbers in (("latents_mean", self.latents_mean), ("latents_std", self.latents_std)):
            if numbers is not None and len(numbers) != self.latent_channels:
                raise _inconsistent(f"{len(numbers)} {key} for {self.latent_channels} latent_channels")
        if self.latents_std is not None and min(self.latents_std) < read.SMALLEST:
            raise _inconsistent(f"a latents_std of {min(self.latents_std):g}")
        if self.latents_mean is not None and self.shift_factor:
            raise UnsupportedError(
                "The VAE's config has both latents_mean and shift_factor, which mlxdiff does not implement.",
                "Use a model with one of them.",
            )


def _inconsistent(what: str) -> CheckpointError:
    return CheckpointError(f"The VAE's config has {what}.", "Download the model again.")


class AutoencoderKL(nn.Module):
    """Encoder and decoder, each with an optional 1x1 convolution on the latents' side."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        if config.use_quant_conv:
            self.quant_conv = PointwiseConv2d(2 * config.latent_channels, 2 * config.latent_channels)
        if config.use_post_quant_conv:
            self.post_quant_conv = PointwiseConv2d(config.latent_channels, config.latent_channels)

    @property
    def scale_factor(self) -> int:
        """Pixels a latent cell spans in each direction."""
        return self.config.scale_factor

    @property
    def dtype(self) -> mx.Dtype:
        """The weights' dtype, which inputs should have."""
        return self.decoder.conv_in.weight.dtype

    def encode(self, images: mx.array) -> tuple[mx.array, mx.array]:
        """Pictures (B, H, W, 3) in [-1, 1] to the posterior's mean and log-variance, (B, H/f, W/f, C) each."""
        moments = self.encoder(images)
        if "quant_conv" in self:
            moments = self.quant_conv(moments)
        mean, logvar = mx.split(moments, 2, axis=-1)
        return mean, mx.clip(logvar, MIN_LOGVAR, MAX_LOGVAR)

    def decode(self, z: mx.array) -> mx.array:
        """Raw latents (B, h, w, C) to pictures (B, h*f, w*f, 3) of about [-1, 1], not clipped."""
        if "post_quant_conv" in self:
            z = self.post_quant_conv(z)
        return self.decoder(z)

    def normalize(self, z: mx.array) -> mx.array:
        """Raw latents (..., C) to those that the UNet sees, of about unit spread."""
        config = self.config
        if config.latents_mean is not None and config.latents_std is not None:
            z = (z - mx.array(config.latents_mean, z.dtype)) / mx.array(config.latents_std, z.dtype)
        if config.shift_factor is not None:
            z = z - config.shift_factor
        return z * config.scaling_factor

    def denormalize(self, latents: mx.array) -> mx.array:
        """The inverse of `normalize`: the UNet's latents (..., C) to raw ones."""
        config = self.config
        z = latents / config.scaling_factor
        if config.shift_factor is not None:
            z = z + config.shift_factor
        if config.latents_mean is not None and config.latents_std is not None:
            z = z * mx.array(config.latents_std, z.dtype) + mx.array(config.latents_mean, z.dtype)
        return z


class Encoder(nn.Module):
    """Pictures to the moments of latents: B,H,W,3 --> B,H/f,W/f,2C."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        channels = config.block_out_channels
        self.conv_in = Conv2d(config.in_channels, channels[0], 3, padding=1)
        last = len(channels) - 1
        self.down_blocks = [
            DownEncoderBlock2D(channels[max(i - 1, 0)], out, config, downsample=i < last)
            for i, out in enumerate(channels)
        ]
        self.mid_block = MidBlock2D(channels[-1], config)
        self.conv_norm_out = GroupNormSiLU(config.norm_num_groups, channels[-1], EPS)
        self.conv_out = Conv2d(channels[-1], 2 * config.latent_channels, 3, padding=1)

    def __call__(self, x: mx.array) -> mx.array:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        x = self.mid_block(x)
        return self.conv_out(self.conv_norm_out(x))


class Decoder(nn.Module):
    """Latents to pictures: B,h,w,C --> B,h*f,w*f,3."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        channels = config.block_out_channels[::-1]
        self.conv_in = Conv2d(config.latent_channels, channels[0], 3, padding=1)
        self.mid_block = MidBlock2D(channels[0], config)
        last = len(channels) - 1
        self.up_blocks = [
            UpDecoderBlock2D(channels[max(i - 1, 0)], out, config, upsample=i < last) for i, out in enumerate(channels)
        ]
        self.conv_norm_out = GroupNormSiLU(config.norm_num_groups, channels[-1], EPS)
        self.conv_out = Conv2d(channels[-1], config.out_channels, 3, padding=1)

    def __call__(self, x: mx.array) -> mx.array:
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(self.conv_norm_out(x))


class DownEncoderBlock2D(nn.Module):
    """Resnet blocks, then half the height and width everywhere but at the bottom."""

    def __init__(self, in_channels: int, out_channels: int, config: VAEConfig, *, downsample: bool):
        super().__init__()
        self.resnets = [
            _resnet(in_channels if i == 0 else out_channels, out_channels, config)
            for i in range(config.layers_per_block)
        ]
        if downsample:
            self.downsamplers = [Downsample2D(out_channels, out_channels, padding=0)]

    def __call__(self, x: mx.array) -> mx.array:
        for resnet in self.resnets:
            x = resnet(x)
        return self.downsamplers[0](x) if "downsamplers" in self else x


class UpDecoderBlock2D(nn.Module):
    """One resnet block more than on the way down, then twice the height and width everywhere but at the top."""

    def __init__(self, in_channels: int, out_channels: int, config: VAEConfig, *, upsample: bool):
        super().__init__()
        self.resnets = [
            _resnet(in_channels if i == 0 else out_channels, out_channels, config)
            for i in range(config.layers_per_block + 1)
        ]
        if upsample:
            self.upsamplers = [Upsample2D(out_channels, out_channels)]

    def __call__(self, x: mx.array) -> mx.array:
        for resnet in self.resnets:
            x = resnet(x)
        return self.upsamplers[0](x) if "upsamplers" in self else x


class MidBlock2D(nn.Module):
    """Two resnet blocks with attention over all cells between them, where the config wants it."""

    def __init__(self, channels: int, config: VAEConfig):
        super().__init__()
        self.resnets = [_resnet(channels, channels, config) for _ in range(2)]
        if config.mid_block_add_attention:
            self.attentions = [Attention(channels, config.norm_num_groups)]

    def __call__(self, x: mx.array) -> mx.array:
        x = self.resnets[0](x)
        if "attentions" in self:
            x = self.attentions[0](x)
        return self.resnets[1](x)


class Attention(nn.Module):
    """Self-attention with one head over the cells of x (B, h, w, C), added to x."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.group_norm = GroupNorm(groups, channels, EPS)
        self.to_q = Linear(channels, channels)
        self.to_k = Linear(channels, channels)
        self.to_v = Linear(channels, channels)
        self.to_out = [Linear(channels, channels)]

    def __call__(self, x: mx.array) -> mx.array:
        cells = self.group_norm(x).reshape(x.shape[0], -1, x.shape[-1])
        out = attention(self.to_q(cells), self.to_k(cells), self.to_v(cells), heads=1)
        return x + self.to_out[0](out).reshape(x.shape)


def _resnet(in_channels: int, out_channels: int, config: VAEConfig) -> ResnetBlock2D:
    return ResnetBlock2D(in_channels, out_channels, groups=config.norm_num_groups, eps=EPS)
