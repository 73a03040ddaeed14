"""ControlNet (Zhang et al. 2023): a copy of a UNet's way down that sees a picture, and what it adds to the UNet.

    latents -> conv_in + controlnet_cond_embedding(picture) -> down_blocks -> mid_block
                                                                  |              |
                                                      controlnet_down_blocks  controlnet_mid_block -> Residuals

ControlNet-Union (xinsir 2024) is one network for several kinds of pictures: it is told which kinds it gets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from ..conditioning import Conditioning
from ..errors import CheckpointError, MlxdiffError, UnsupportedError
from ..kernels import graphs
from ..kernels.activations import silu
from ..kernels.linear import linear
from . import config as read
from .backbone import Residuals
from .layers import Conv2d, LayerNorm, Linear, PointwiseConv2d, TimestepEmbedding, timestep_embedding
from .unet_backbone import Prepared
from .unet_blocks import LevelKeysValues
from .unet_config import UNetConfig
from .unet_down import UNetDown

MODEL = "ControlNetModel"
UNION = ("ControlNetUnionModel", "ControlNetModel_Union")

# Keys of a ControlNet's own, or that no ControlNet has; the others are a UNet's.
_PICTURE_CHANNELS = (16, 32, 96, 256)
_UNION_PICTURE_CHANNELS = (48, 96, 192, 384)


class UnionConfig(NamedTuple):
    """What a ControlNet-Union has besides: so many kinds of pictures, and the widths that tell them apart."""

    n_types: int
    width: int
    layers: int


@dataclass(frozen=True)
class ControlNetConfig:
    """`config.json` of a ControlNet.

    unet              of the UNet whose way down it copies
    picture_channels  channels of the picture: 3 for RGB
    embedding         channels on the picture's way to the latents' size, which halves it between each two
    is_bgr            whether it takes blue first
    pools             whether what it adds is the same everywhere (shuffle)
    """

    unet: UNetConfig
    picture_channels: int
    embedding: tuple[int, ...]
    is_bgr: bool
    pools: bool
    union: UnionConfig | None = None

    @property
    def scale_factor(self) -> int:
        """Pixels that a latent cell spans."""
        return 2 ** (len(self.embedding) - 1)

    @property
    def map_channels(self) -> list[int]:
        """Channels of the feature maps on the way down, in the order in which it makes them."""
        channels, levels = self.unet.block_out_channels, self.unet.levels
        inside = [
            width
            for level, width in enumerate(channels)
            for width in [width] * (self.unet.layers[level] + (level < levels - 1))
        ]
        return [channels[0], *inside]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ControlNetConfig:
        """Reads a `config.json`; CheckpointError for a wrong value, UnsupportedError for one not implemented."""
        is_union = values.get("_class_name") in UNION
        order = values.get("controlnet_conditioning_channel_order", "rgb")
        if order not in ("rgb", "bgr"):
            raise CheckpointError(f"The ControlNet's config has the channel order {order!r}.", "It is rgb or bgr.")
        unet = _unet_config(values)
        embedding = read.wholes(
            values, "conditioning_embedding_out_channels", _UNION_PICTURE_CHANNELS if is_union else _PICTURE_CHANNELS
        )
        if len(embedding) > 8:
            raise CheckpointError(
                f"The ControlNet's config has {len(embedding)} conditioning_embedding_out_channels.",
                "Download it again.",
            )
        return cls(
            unet=unet,
            picture_channels=read.whole(values, "conditioning_channels", 3, high=256),
            embedding=embedding,
            is_bgr=order == "bgr",
            pools=read.flag(values, "global_pool_conditions", False),
            union=_union_config(values, unet) if is_union else None,
        )


def _unet_config(values: Mapping[str, Any]) -> UNetConfig:
    """A ControlNet's config has a UNet's keys, but for the way up: that mirrors the way down."""
    down = values.get("down_block_types")
    spelled = {key: value for key, value in values.items() if not key.startswith("_")}
    if isinstance(down, list | tuple) and "up_block_types" not in values:
        spelled["up_block_types"] = [str(name).replace("Down", "Up") for name in reversed(down)]
    try:
        return UNetConfig.from_dict(spelled)
    except (CheckpointError, UnsupportedError) as error:
        raise _renamed(error) from None


def _renamed(error: MlxdiffError) -> MlxdiffError:
    return type(error)(
        error.problem.replace("The UNet's config", "The ControlNet's config"), "Download it again, or use another one."
    )


def _union_config(values: Mapping[str, Any], unet: UNetConfig) -> UnionConfig:
    if unet.time_id_width is None:
        raise UnsupportedError(
            "The ControlNet-Union's config has no addition_embed_type: nothing says how its types are embedded.",
            "Use one that was made for SDXL.",
        )
    width = read.whole(values, "num_trans_channel", 320)
    if read.whole(values, "num_proj_channel", 320) != unet.block_out_channels[0]:
        raise CheckpointError(
            "The ControlNet-Union's config has a num_proj_channel other than its first block_out_channels.",
            "Download it again.",
        )
    return UnionConfig(
        read.whole(values, "num_control_type", 6, high=100), width, read.whole(values, "num_trans_layer", 1, high=16)
    )


class PictureEmbedding(nn.Module):
    """A picture (B, H, W, c) in [0, 1] to the size and the channels of the UNet's first feature map."""

    def __init__(self, config: ControlNetConfig):
        super().__init__()
        channels = config.embedding
        self.conv_in = Conv2d(config.picture_channels, channels[0], 3, padding=1)
        self.blocks = []
        for narrow, wide in pairwise(channels):
            self.blocks.append(Conv2d(narrow, narrow, 3, padding=1))
            self.blocks.append(Conv2d(narrow, wide, 3, stride=2, padding=1))
        self.conv_out = Conv2d(channels[-1], config.unet.block_out_channels[0], 3, padding=1)

    def __call__(self, picture: mx.array) -> mx.array:
        x = silu(self.conv_in(picture))
        for block in self.blocks:
            x = silu(block(x))
        return self.conv_out(x)


class ControlNetModel(UNetDown):
    """The ControlNet of a config; its parameters' paths are the keys of diffusers' state dict."""

    def __init__(self, config: ControlNetConfig):
        super().__init__(config.unet)
        self.control = config
        self.controlnet_cond_embedding = PictureEmbedding(config)
        self.controlnet_down_blocks = [PointwiseConv2d(width, width) for width in config.map_channels]
        bottom = config.unet.block_out_channels[-1]
        self.controlnet_mid_block = PointwiseConv2d(bottom, bottom)

    def embed(self, picture: mx.array) -> mx.array:
        """What a picture (1, H, W, c) in [0, 1] adds to the first feature map: (1, h, w, C)."""
        return self.controlnet_cond_embedding(picture[..., ::-1] if self.control.is_bgr else picture)

    def maps(
        self,
        sample: mx.array,
        hint: mx.array,
        scales: mx.array,
        shifts: list[list[mx.array]],
        keys_values: list[LevelKeysValues],
    ) -> list[mx.array]:
        """Feature maps for the skip connections, and last for the bottom.

        sample  (B, h, w, in_channels); `hint` what `embed` gave
        scales  (n + 1,) by which the maps are multiplied
        """
        skips, bottom = self.coarser(self.finest(self.first(sample) + hint, shifts, keys_values), shifts, keys_values)
        found = [layer(x) for layer, x in zip(self.controlnet_down_blocks, skips, strict=True)]
        found.append(self.controlnet_mid_block(bottom))
        scaled = [x * scales[i] for i, x in enumerate(found)]
        return [mx.mean(x, axis=(1, 2), keepdims=True) for x in scaled] if self.control.pools else scaled


class _TypeAttention(nn.Module):
    """torch's MultiheadAttention as ControlNet-Union calls it: across the batch, whose rows are all the same.

    Every row then attends to itself, so that queries and keys decide nothing.
    """

    def __init__(self, width: int):
        super().__init__()
        self.in_proj_weight = mx.zeros((3 * width, width))
        self.in_proj_bias = mx.zeros(3 * width)
        self.out_proj = Linear(width, width)

    def __call__(self, x: mx.array) -> mx.array:
        width = x.shape[-1]
        return self.out_proj(linear(x, self.in_proj_weight[2 * width :], self.in_proj_bias[2 * width :]))


class _TypeMLP(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.c_fc = Linear(width, 4 * width)
        self.c_proj = Linear(4 * width, width)

    def __call__(self, x: mx.array) -> mx.array:
        x = self.c_fc(x)
        return self.c_proj(x * mx.sigmoid(1.702 * x))


class _TypeBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.attn = _TypeAttention(width)
        self.ln_1 = LayerNorm(width)
        self.mlp = _TypeMLP(width)
        self.ln_2 = LayerNorm(width)

    def __call__(self, x: mx.array) -> mx.array:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class ControlNetUnionModel(ControlNetModel):
    """ControlNet-Union: pictures of several kinds at once, each with its kind."""

    def __init__(self, config: ControlNetConfig):
        super().__init__(config)
        assert config.union is not None
        assert config.unet.time_id_width is not None
        self.union = config.union
        width = config.union.width
        self.task_embedding = mx.zeros((config.union.n_types, width))
        self.transformer_layes = [_TypeBlock(width) for _ in range(config.union.layers)]  # spelled as the files do
        self.spatial_ch_projs = Linear(width, config.unet.block_out_channels[0])
        self.control_add_embedding = TimestepEmbedding(
            config.unet.time_id_width * config.union.n_types, config.unet.time_embed_dim
        )

    def embed_all(self, pictures: Sequence[mx.array], types: Sequence[int], scales: Sequence[float]) -> mx.array:
        """As `embed`, of pictures (1, H, W, c) of these kinds together. The scale of one alone is left to its maps."""
        scales = [1.0] if len(pictures) == 1 else scales
        hint = mx.zeros((), dtype=self.dtype)
        for picture, kind, scale in zip(pictures, types, scales, strict=True):
            seen = self.embed(picture)
            x = (mx.mean(seen, axis=(1, 2)) + self.task_embedding[kind]) * scale
            for layer in self.transformer_layes:
                x = layer(x)
            hint = hint + (seen + self.spatial_ch_projs(x)[:, None, None]) * scale
        return hint

    def time_shifts(
        self,
        timesteps: mx.array,
        *,
        pooled: mx.array | None = None,
        time_ids: mx.array | None = None,
        timestep_cond: mx.array | None = None,
        types: mx.array | None = None,
    ) -> list[list[mx.array]]:
        """As of a UNet; `types` (N, n_types) is 1 for the kinds of pictures that there are, else 0."""
        width = self.config.time_id_width
        assert width is not None
        assert types is not None
        embedded = timestep_embedding(
            types.reshape(-1),
            width,
            flip_sin_to_cos=self.config.flip_sin_to_cos,
            freq_shift=self.config.freq_shift,
        ).reshape(types.shape[0], -1)
        own = self.control_add_embedding(embedded.astype(self.dtype))
        return self._shifts_of(self._embed(timesteps, pooled, time_ids, timestep_cond) + own)


class ControlNet:
    """A ControlNet as runs use it: prepared once, then called at each step beside the UNet.

    compiles  whether calls are compiled; None means on a GPU
    """

    def __init__(self, network: ControlNetModel, *, compiles: bool | None = None) -> None:
        self.network = network
        compiles = mx.default_device().type == mx.gpu if compiles is None else compiles
        self._maps: Callable[..., list[mx.array]] = graphs.compiled(network.maps) if compiles else network.maps

    @property
    def config(self) -> ControlNetConfig:
        return self.network.control

    def hint(self, pictures: Sequence[mx.array], types: Sequence[int], scales: Sequence[float]) -> mx.array:
        """What pictures (1, H, W, c) in [0, 1] add to the first feature map: (1, h, w, C), unevaluated."""
        pictures = [picture.astype(self.network.dtype) for picture in pictures]
        if isinstance(self.network, ControlNetUnionModel):
            return self.network.embed_all(pictures, types, scales)
        (picture,) = pictures
        return self.network.embed(picture)

    def prepare(self, conditioning: Conditioning, timesteps: Sequence[float], types: Sequence[int]) -> Prepared:
        """What the conditioning (B rows) and the timesteps alone decide, as of a backbone."""
        if self.config.union is None:
            return Prepared(self.network, conditioning, timesteps)
        given = [float(kind in types) for kind in range(self.config.union.n_types)]
        rows = mx.array([given] * conditioning.context.shape[0])
        return Prepared(self.network, conditioning, timesteps, types=rows)

    @property
    def n_maps(self) -> int:
        """Feature maps that it gives, the bottom's too."""
        return len(self.config.map_channels) + 1

    def scales(self, factors: Sequence[float], *, guess: bool) -> mx.array:
        """(n_maps,) by which feature maps are multiplied; a guess trusts the deep ones more (Zhang et al., "guess")."""
        ramps = guess and not self.config.pools
        last = self.n_maps - 1
        return mx.array([factor * (10 ** (i / last - 1) if ramps else 1) for i, factor in enumerate(factors)]).astype(
            self.network.dtype
        )

    def __call__(
        self, latents: mx.array, timestep: float, prepared: Prepared, hint: mx.array, scales: mx.array
    ) -> Residuals:
        """What is added to the UNet for scaled latents (B, h, w, C) of any dtype; unevaluated."""
        sample = latents.astype(self.network.dtype)
        *down, mid = self._maps(sample, hint, scales, prepared.time_shifts(timestep), prepared.keys_values)
        return Residuals(down=down, mid=mid)
