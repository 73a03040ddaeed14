"""The way down of a UNet to its bottom, which a ControlNet has too: a copy of it, trained to see a picture.

    B,h,w,C -> conv_in -> down_blocks -> mid_block
                              \\________ feature maps

What the timestep and the context alone decide can be computed before: `time_shifts`, `keys_values`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import mlx.core as mx
import mlx.nn as nn

from ..errors import CheckpointError
from ..kernels.activations import silu
from .layers import Conv2d, ResnetBlock2D, TimestepEmbedding, pack, timestep_embedding
from .transformer import SelfAttention, Transformer2DModel
from .unet_blocks import Attend, DownBlock, LevelKeysValues, MidBlock, UpBlock
from .unet_config import UNetConfig

if TYPE_CHECKING:
    from typing_extensions import Self


class UNetDown(nn.Module):
    """The first half of the UNet of a config; its parameters' paths are the keys of diffusers' state dict."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        channels, kernel = config.block_out_channels, config.conv_in_kernel
        self.conv_in = Conv2d(config.in_channels, channels[0], kernel, padding=(kernel - 1) // 2)
        self.time_embedding = TimestepEmbedding(channels[0], config.time_embed_dim, config.time_cond_proj_dim)
        if config.added_width is not None:
            self.add_embedding = TimestepEmbedding(config.added_width, config.time_embed_dim)
        self.down_blocks = [_down_block(config, level) for level in range(config.levels)]
        if config.mid_block_type is not None:
            self.mid_block = _mid_block(config)

    @property
    def dtype(self) -> mx.Dtype:
        """The weights' dtype, which `sample` should have."""
        return self.conv_in.bias.dtype

    def fuse(self) -> Self:
        """Joins layers that have the same input, once the weights are loaded: parameters then have other names."""
        for module in self.modules():
            if isinstance(module, SelfAttention):
                module.fuse()
        return self

    def pack(self) -> Self:
        """Prepares weights for this device's kernels, behind `fuse`: parameters then have other names and shapes."""
        pack(self)
        return self

    def first(self, sample: mx.array) -> mx.array:
        """What `conv_in` makes of a sample (B, h, w, in_channels)."""
        return self.conv_in(2 * sample - 1 if self.config.center_input_sample else sample)

    def finest(
        self,
        x: mx.array,
        shifts: list[list[mx.array]],
        keys_values: list[LevelKeysValues],
        merging: float = 0.0,
        adapter: Sequence[mx.array] = (),
    ) -> list[mx.array]:
        """The feature maps of the finest level, of what `first` gave: at last the halved one."""
        merging = self._merging(0, merging)
        return [x, *self.down_blocks[0](x, shifts[0], keys_values[0], merging, _item(adapter, 0))]

    def coarser(
        self,
        maps: list[mx.array],
        shifts: list[list[mx.array]],
        keys_values: list[LevelKeysValues],
        merging: float = 0.0,
        adapter: Sequence[mx.array] = (),
        perturbed: int = 0,
    ) -> tuple[list[mx.array], mx.array]:
        """All feature maps, of those that `finest` gave, and what the bottom makes of the last.

        Of the last `perturbed` images each pixel attends to itself alone at the bottom.
        """
        skips, down = list(maps), len(self.down_blocks)
        for i in range(1, down):
            merges = self._merging(i, merging)
            skips.extend(self.down_blocks[i](skips[-1], shifts[i], keys_values[i], merges, _item(adapter, i)))
        x = skips[-1]
        if "mid_block" in self:
            x = self.mid_block(x, shifts[down], keys_values[down], perturbed)
            last = _item(adapter, down)
            x = x if last is None else x + last
        return skips, x

    def _merging(self, level: int, merging: float) -> float:
        """Tokens merge on one level alone: there they are most, and most alike."""
        return merging if level == self.config.finest_attention else 0.0

    def keys_values(self, context: mx.array) -> list[LevelKeysValues]:
        """Keys and values of the context (B, S, cross_attention_dim) for each level, in the order of the levels.

        Raises CheckpointError where the width does not fit.
        """
        width = context.shape[-1]
        if width not in self.config.cross_attention_dim:
            raise _unfit(f"a context of width {self.config.cross_attention_dim[-1]}", f"{width}")
        context = context.astype(self.dtype)
        return [level.keys_values(context) for level in self._levels()]

    def time_shifts(
        self,
        timesteps: mx.array,
        *,
        pooled: mx.array | None = None,
        time_ids: mx.array | None = None,
        timestep_cond: mx.array | None = None,
    ) -> list[list[mx.array]]:
        """What timesteps (N,) in fp32 add inside each resnet block of each level: (N, C) each.

        `pooled` (N, P), `time_ids` (N, n) and `timestep_cond` (N, time_cond_proj_dim) are those of `__call__`. Raises
        CheckpointError where they do not fit.
        """
        return self._shifts_of(self._embed(timesteps, pooled, time_ids, timestep_cond))

    def _shifts_of(self, embedding: mx.array) -> list[list[mx.array]]:
        temb = silu(embedding)
        return [level.time_shifts(temb) for level in self._levels()]

    def _levels(self) -> list[DownBlock | MidBlock | UpBlock]:
        return [*self.down_blocks, *([self.mid_block] if "mid_block" in self else [])]

    def _embed(
        self,
        timesteps: mx.array,
        pooled: mx.array | None,
        time_ids: mx.array | None,
        timestep_cond: mx.array | None,
    ) -> mx.array:
        """The time embedding (N, time_embed_dim); sinusoids in fp32, then cast."""
        config, dtype = self.config, self.dtype
        embedding = timestep_embedding(
            timesteps,
            config.block_out_channels[0],
            flip_sin_to_cos=config.flip_sin_to_cos,
            freq_shift=config.freq_shift,
        )
        condition = None if timestep_cond is None else timestep_cond.astype(dtype)
        temb = self.time_embedding(embedding.astype(dtype), condition)
        if config.time_id_width is not None:
            if pooled is None or time_ids is None:
                raise _unfit("a pooled prompt and time ids, as SDXL's do", "neither")
            width = pooled.shape[-1] + time_ids.shape[-1] * config.time_id_width
            if width != config.added_width:
                raise _unfit(f"a pooled prompt and time ids of width {config.added_width}", f"{width}")
            ids = timestep_embedding(
                time_ids.reshape(-1),
                config.time_id_width,
                flip_sin_to_cos=config.flip_sin_to_cos,
                freq_shift=config.freq_shift,
            )
            ids = ids.reshape(time_ids.shape[0], -1)
            temb = temb + self.add_embedding(mx.concatenate([pooled.astype(dtype), ids.astype(dtype)], axis=-1))
        return temb


def _item(maps: Sequence[mx.array], index: int) -> mx.array | None:
    return maps[index] if index < len(maps) else None


def _unfit(wanted: str, given: str) -> CheckpointError:
    return CheckpointError(
        f"The UNet wants {wanted}; the text encoders give {given}.",
        "Its files belong to different models: download the model again.",
    )


def _down_block(config: UNetConfig, level: int) -> DownBlock:
    channels = config.block_out_channels
    return DownBlock(
        channels[max(level - 1, 0)],
        channels[level],
        config.layers[level],
        lambda i, o: resnet_of(config, i, o),
        attend_of(config, level, config.down_transformers[level], config.down_block_types[level]),
        downsample_padding=None if level == config.levels - 1 else config.downsample_padding,
    )


def _mid_block(config: UNetConfig) -> MidBlock:
    return MidBlock(
        config.block_out_channels[-1],
        lambda i, o: resnet_of(config, i, o, config.mid_block_scale_factor),
        attend_of(config, config.levels - 1, (config.mid_transformer,), str(config.mid_block_type)),
    )


def resnet_of(config: UNetConfig, in_channels: int, out_channels: int, out_scale: float = 1.0) -> ResnetBlock2D:
    return ResnetBlock2D(
        in_channels,
        out_channels,
        config.time_embed_dim,
        groups=config.norm_num_groups,
        eps=config.norm_eps,
        out_scale=out_scale,
    )


def attend_of(config: UNetConfig, level: int, n_layers: tuple[int, ...], block_type: str) -> Attend | None:
    if "CrossAttn" not in block_type:
        return None
    return lambda i: Transformer2DModel(
        config.block_out_channels[level],
        config.heads[level],
        n_layers[i],
        config.cross_attention_dim[level],
        groups=config.norm_num_groups,
        use_linear_projection=config.use_linear_projection,
        only_cross_attention=config.only_cross_attention[level] and not block_type.startswith("UNetMid"),
        upcast=config.upcast_attention,
    )
