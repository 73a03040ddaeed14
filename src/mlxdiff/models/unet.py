"""UNet2DConditionModel, the denoiser of Stable Diffusion (Rombach et al. 2022; Podell et al. 2023 for SDXL).

    B,h,w,C -> conv_in -> down_blocks -> mid_block -> up_blocks -> conv_out -> B,h,w,C
                             \\________ feature maps _______/

It knows nothing of sigmas, guidance or prompts: latents, a timestep and an encoded context go in. What the timestep and
the context alone decide can be computed before (`time_shifts`, `keys_values`), and leaves `predict` for each step.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from ..errors import CheckpointError, RequestError
from ..kernels.activations import silu
from .backbone import NO_RESIDUALS, Residuals
from .layers import Conv2d, GroupNormSiLU, ResnetBlock2D, TimestepEmbedding, timestep_embedding
from .transformer import KeysValues, SelfAttention, Transformer2DModel
from .unet_blocks import Attend, DownBlock, LevelKeysValues, MidBlock, UpBlock
from .unet_config import UNetConfig

__all__ = ["UNet2DConditionModel", "UNetConfig"]


class UNet2DConditionModel(nn.Module):
    """The UNet of a config; its parameters' paths are the keys of diffusers' state dict."""

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
        self.up_blocks = [_up_block(config, level) for level in reversed(range(config.levels))]
        kernel = config.conv_out_kernel
        self.conv_norm_out = GroupNormSiLU(config.norm_num_groups, channels[0], config.norm_eps)
        self.conv_out = Conv2d(channels[0], config.out_channels, kernel, padding=(kernel - 1) // 2)

    @property
    def dtype(self) -> mx.Dtype:
        """The weights' dtype, which `sample` should have."""
        return self.conv_norm_out.weight.dtype  # never packed, and no adapter stands in its place

    def fuse(self) -> UNet2DConditionModel:
        """Joins layers that have the same input, once the weights are loaded: parameters then have other names."""
        for module in self.modules():
            if isinstance(module, SelfAttention):
                module.fuse()
        return self

    def __call__(
        self,
        sample: mx.array,
        timestep: mx.array | float,
        context: mx.array,
        *,
        pooled: mx.array | None = None,
        time_ids: mx.array | None = None,
        timestep_cond: mx.array | None = None,
    ) -> mx.array:
        """The network's output for `sample` (B, h, w, in_channels): (B, h, w, out_channels), in its dtype.

        timestep       () or (B,), in fp32
        context        (B, S, cross_attention_dim), the encoded prompt
        pooled         (B, P) and `time_ids` (B, n), for SDXL alone
        timestep_cond  (B, time_cond_proj_dim), the embedded guidance scale

        Raises CheckpointError where the encoders' output does not fit.
        """
        timesteps = mx.broadcast_to(mx.array(timestep), (sample.shape[0],))
        shifts = self.time_shifts(timesteps, pooled=pooled, time_ids=time_ids, timestep_cond=timestep_cond)
        return self.predict(sample, shifts, self.keys_values(context))

    def predict(
        self,
        sample: mx.array,
        shifts: list[list[mx.array]],
        keys_values: list[LevelKeysValues],
        merging: float = 0.0,
        residuals: Residuals = NO_RESIDUALS,
        perturbed: int = 0,
    ) -> mx.array:
        """The output for `sample` (B, h, w, in_channels), of what `time_shifts` and `keys_values` gave.

        `merging` is the fraction of the tokens that merge in the finest self-attention; of the last `perturbed` images
        each pixel attends to itself alone at the bottom. The three parts are there for
        callers that keep the output of `coarser_levels` of another call (models/step_cache.py).
        """
        maps = self.finest_down(sample, shifts, keys_values, merging, residuals)
        x = self.coarser_levels(maps, shifts, keys_values, merging, residuals, perturbed)
        return self.finest_up(x, maps, shifts, keys_values, merging, residuals)

    def finest_down(
        self,
        sample: mx.array,
        shifts: list[list[mx.array]],
        keys_values: list[LevelKeysValues],
        merging: float = 0.0,
        residuals: Residuals = NO_RESIDUALS,
    ) -> list[mx.array]:
        """The feature maps that the finest level makes on the way down, at last the halved one."""
        _, _, adapter = residuals
        if self.config.center_input_sample:
            sample = 2 * sample - 1
        x = self.conv_in(sample)
        merging = self._merging(0, merging)
        return [x, *self.down_blocks[0](x, shifts[0], keys_values[0], merging, _item(adapter, 0))]

    def coarser_levels(
        self,
        maps: list[mx.array],
        shifts: list[list[mx.array]],
        keys_values: list[LevelKeysValues],
        merging: float = 0.0,
        residuals: Residuals = NO_RESIDUALS,
        perturbed: int = 0,
    ) -> mx.array:
        """What all coarser levels make of `finest_down`'s feature maps for the finest way up: (B, h, w, C)."""
        to_skips, to_mid, adapter = residuals
        skips, down = list(maps), len(self.down_blocks)
        for i in range(1, down):
            merges = self._merging(i, merging)
            skips.extend(self.down_blocks[i](skips[-1], shifts[i], keys_values[i], merges, _item(adapter, i)))
        x = skips[-1]
        if "mid_block" in self:
            x = self.mid_block(x, shifts[down], keys_values[down], perturbed)
            last = _item(adapter, down)
            x = x if last is None else x + last
        x = x if to_mid is None else x + to_mid
        skips = _added(skips, to_skips)
        for i in range(-down, -1):
            x = self.up_blocks[i](x, shifts[i], keys_values[i], skips, self._merging(-1 - i, merging))
        return x

    def finest_up(
        self,
        x: mx.array,
        maps: list[mx.array],
        shifts: list[list[mx.array]],
        keys_values: list[LevelKeysValues],
        merging: float = 0.0,
        residuals: Residuals = NO_RESIDUALS,
    ) -> mx.array:
        """The output: the finest level's way up from `coarser_levels`' output, with `finest_down`'s feature maps."""
        to_skips, _, _ = residuals
        block = self.up_blocks[-1]
        skips = _added(maps[: len(block.resnets)], to_skips[: len(block.resnets)])
        x = block(x, shifts[-1], keys_values[-1], skips, self._merging(0, merging))
        return self.conv_out(self.conv_norm_out(x))

    def check_residuals(self, residuals: Residuals) -> None:
        """Raises RequestError where there are more or fewer residuals than places for them."""
        skips = sum(self.config.layers) + self.config.levels
        if residuals.down and len(residuals.down) != skips:
            raise RequestError(
                f"The ControlNet gives {len(residuals.down)} feature maps, and this UNet has {skips} skip connections.",
                "Use a ControlNet that was trained for this family of models.",
            )
        if len(residuals.adapter) > self.config.levels + int("mid_block" in self):
            raise RequestError(
                f"The T2I-Adapter gives {len(residuals.adapter)} feature maps, and this UNet has"
                f" {self.config.levels} levels.",
                "Use a T2I-Adapter that was trained for this family of models.",
            )

    def _merging(self, level: int, merging: float) -> float:
        """Tokens merge on one level alone: there they are most, and most alike."""
        return merging if level == self.config.finest_attention else 0.0

    def keys_values(self, context: mx.array, pictures: Sequence[Sequence[KeysValues]] = ()) -> list[LevelKeysValues]:
        """Keys and values of the context (B, S, cross_attention_dim) for each level, in the order of the levels.

        pictures  those of pictures for each attention to the prompt, in the order of models/unet_attentions.py

        Raises CheckpointError where the width does not fit.
        """
        width = context.shape[-1]
        if width not in self.config.cross_attention_dim:
            raise _unfit(f"a context of width {self.config.cross_attention_dim[-1]}", f"{width}")
        context = context.astype(self.dtype)
        levels = [level.keys_values(context) for level in self._levels()]
        if pictures:
            for block, added in zip(self._in_diffusers_order(levels), pictures, strict=True):
                block.extend(tuple(array.astype(self.dtype) for array in each) for each in added)
        return levels

    def _in_diffusers_order(self, levels: list[LevelKeysValues]) -> list[list[KeysValues]]:
        """What stands for each transformer block: the way down, the way up, the bottom."""
        down = len(self.down_blocks)
        up = len(levels) - len(self.up_blocks)
        ordered = [*levels[:down], *levels[up:], *levels[down:up]]
        return [block for level in ordered for transformer in level for block in transformer]

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
        temb = self._embed(timesteps, pooled, time_ids, timestep_cond)
        return [level.time_shifts(temb) for level in self._levels()]

    def _levels(self) -> list[DownBlock | MidBlock | UpBlock]:
        return [*self.down_blocks, *([self.mid_block] if "mid_block" in self else []), *self.up_blocks]

    def _embed(
        self,
        timesteps: mx.array,
        pooled: mx.array | None,
        time_ids: mx.array | None,
        timestep_cond: mx.array | None,
    ) -> mx.array:
        """The time embedding (N, time_embed_dim) with SiLU applied; sinusoids in fp32, then cast."""
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
        return silu(temb)


def _item(maps: Sequence[mx.array], index: int) -> mx.array | None:
    return maps[index] if index < len(maps) else None


def _added(skips: list[mx.array], residuals: Sequence[mx.array]) -> list[mx.array]:
    """The skip connections with the residuals added, where there are any."""
    return [skip + residual for skip, residual in zip(skips, residuals, strict=True)] if residuals else skips


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
        lambda i, o: _resnet(config, i, o),
        _attend(config, level, config.down_transformers[level], config.down_block_types[level]),
        downsample_padding=None if level == config.levels - 1 else config.downsample_padding,
    )


def _mid_block(config: UNetConfig) -> MidBlock:
    return MidBlock(
        config.block_out_channels[-1],
        lambda i, o: _resnet(config, i, o, config.mid_block_scale_factor),
        _attend(config, config.levels - 1, (config.mid_transformer,), str(config.mid_block_type)),
    )


def _up_block(config: UNetConfig, level: int) -> UpBlock:
    channels = config.block_out_channels
    above = channels[max(level - 1, 0)]
    return UpBlock(
        channels[min(level + 1, config.levels - 1)],
        channels[level],
        # What the level made on its way down; last what it got from above, already halved.
        [channels[level]] * config.layers[level] + [above],
        lambda i, o: _resnet(config, i, o),
        _attend(config, level, config.up_transformers[level], config.up_block_types[-1 - level]),
        upsample=level > 0,
    )


def _resnet(config: UNetConfig, in_channels: int, out_channels: int, out_scale: float = 1.0) -> ResnetBlock2D:
    return ResnetBlock2D(
        in_channels,
        out_channels,
        config.time_embed_dim,
        groups=config.norm_num_groups,
        eps=config.norm_eps,
        out_scale=out_scale,
    )


def _attend(config: UNetConfig, level: int, n_layers: tuple[int, ...], block_type: str) -> Attend | None:
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
