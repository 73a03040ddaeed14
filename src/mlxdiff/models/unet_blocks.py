"""The levels of a UNet: resnet blocks, each with a transformer behind it or not, and a change of size at the end.

Attribute names are diffusers'. Whether a level has attention, and which sizes, the caller decides with `attend`: a
function that builds the i-th transformer, or None.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from ..kernels.join import join
from .layers import Downsample2D, ResnetBlock2D, Upsample2D
from .transformer import KeysValues, Transformer2DModel

# (i) -> the transformer behind the i-th resnet block.
Attend = Callable[[int], Transformer2DModel]
# (in_channels, out_channels) -> a resnet block.
Resnet = Callable[[int, int], ResnetBlock2D]


LevelKeysValues = list[list[list[KeysValues]]]
"""Keys and values of the context for one level: for each transformer, for each of its blocks, for each attention."""


class _Level(nn.Module):
    """What levels have in common: resnet blocks, and transformers if there is attention."""

    resnets: list[ResnetBlock2D]
    attentions: list[Transformer2DModel]

    def time_shifts(self, temb: mx.array) -> list[mx.array]:
        """What the embedded timesteps (B, temb_channels) add inside each resnet block: (B, C) each."""
        return [resnet.time_shift(temb) for resnet in self.resnets]

    def keys_values(self, context: mx.array) -> LevelKeysValues:
        """Keys and values of the context (B, S, context_width) for each transformer; empty without attention."""
        return [attention.keys_values(context) for attention in self.attentions] if "attentions" in self else []


class DownBlock(_Level):
    """A level on the way down; every feature map that it makes goes to the way up."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        n_layers: int,
        resnet: Resnet,
        attend: Attend | None,
        *,
        downsample_padding: int | None,
    ):
        super().__init__()
        self.resnets = [resnet(in_channels if i == 0 else out_channels, out_channels) for i in range(n_layers)]
        if attend is not None:
            self.attentions = [attend(i) for i in range(n_layers)]
        if downsample_padding is not None:
            self.downsamplers = [Downsample2D(out_channels, out_channels, downsample_padding)]

    def __call__(
        self,
        x: mx.array,
        shifts: list[mx.array],
        keys_values: LevelKeysValues,
        merging: float = 0.0,
        adapter: mx.array | None = None,
    ) -> list[mx.array]:
        """The level's feature maps. `adapter` is a T2I-Adapter's, added where diffusers adds it.

        With attention that is in front of the downsampler, without it is behind.
        """
        maps = []
        for i, resnet in enumerate(self.resnets):
            x = resnet(x, shifts[i])
            if "attentions" in self:
                x = self.attentions[i](x, keys_values[i], merging)
                if adapter is not None and i == len(self.resnets) - 1:
                    x = x + adapter
            maps.append(x)
        if "downsamplers" in self:
            maps.append(self.downsamplers[0](x))
        if adapter is not None and "attentions" not in self:
            maps[-1] = maps[-1] + adapter
        return maps


class MidBlock(_Level):
    """The bottom: a resnet block, then a transformer with another resnet block behind it, if there is attention."""

    def __init__(self, channels: int, resnet: Resnet, attend: Attend | None):
        super().__init__()
        self.resnets = [resnet(channels, channels)]
        if attend is not None:
            self.attentions = [attend(0)]
            self.resnets.append(resnet(channels, channels))

    def __call__(
        self, x: mx.array, shifts: list[mx.array], keys_values: LevelKeysValues, perturbed: int = 0
    ) -> mx.array:
        """Of the last `perturbed` images each pixel attends to itself alone."""
        x = self.resnets[0](x, shifts[0])
        if "attentions" in self:
            x = self.resnets[1](self.attentions[0](x, keys_values[0], perturbed=perturbed), shifts[1])
        return x


class UpBlock(_Level):
    """A level on the way up; each resnet block also takes a feature map of the way down, the last one first.

    skip_channels  channels of those feature maps, in the order in which they are taken
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        skip_channels: list[int],
        resnet: Resnet,
        attend: Attend | None,
        *,
        upsample: bool,
    ):
        super().__init__()
        self.resnets = [
            resnet((in_channels if i == 0 else out_channels) + skip, out_channels)
            for i, skip in enumerate(skip_channels)
        ]
        if attend is not None:
            self.attentions = [attend(i) for i in range(len(skip_channels))]
        if upsample:
            self.upsamplers = [Upsample2D(out_channels, out_channels)]

    def __call__(
        self,
        x: mx.array,
        shifts: list[mx.array],
        keys_values: LevelKeysValues,
        skips: list[mx.array],
        merging: float = 0.0,
    ) -> mx.array:
        """Takes its feature maps off the end of `skips` and enlarges x to the size of the one that is then last."""
        for i, resnet in enumerate(self.resnets):
            x = resnet(join(x, skips.pop()), shifts[i])
            if "attentions" in self:
                x = self.attentions[i](x, keys_values[i], merging)
        if "upsamplers" in self:
            height, width = skips[-1].shape[1:3]
            x = self.upsamplers[0](x, (height, width))
        return x
