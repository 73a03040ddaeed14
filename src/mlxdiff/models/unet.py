"""UNet2DConditionModel, the denoiser of Stable Diffusion (Rombach et al. 2022; Podell et al. 2023 for SDXL).

    B,h,w,C -> conv_in -> down_blocks -> mid_block -> up_blocks -> conv_out -> B,h,w,C
                             \\________ feature maps _______/

It knows nothing of sigmas, guidance or prompts: latents, a timestep and an encoded context go in. What the timestep and
the context alone decide can be computed before (`time_shifts`, `keys_values`), and leaves `predict` for each step.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from ..errors import RequestError
from .backbone import NO_RESIDUALS, Residuals
from .layers import Conv2d, GroupNormSiLU
from .transformer import KeysValues
from .unet_blocks import DownBlock, LevelKeysValues, MidBlock, UpBlock
from .unet_config import UNetConfig
from .unet_down import UNetDown, attend_of, resnet_of

__all__ = ["UNet2DConditionModel", "UNetConfig"]


class UNet2DConditionModel(UNetDown):
    """The UNet of a config; its parameters' paths are the keys of diffusers' state dict."""

    def __init__(self, config: UNetConfig):
        super().__init__(config)
        channels, kernel = config.block_out_channels, config.conv_out_kernel
        self.up_blocks = [_up_block(config, level) for level in reversed(range(config.levels))]
        self.conv_norm_out = GroupNormSiLU(config.norm_num_groups, channels[0], config.norm_eps)
        self.conv_out = Conv2d(channels[0], config.out_channels, kernel, padding=(kernel - 1) // 2)

    @property
    def dtype(self) -> mx.Dtype:
        """The weights' dtype, which `sample` should have."""
        return self.conv_norm_out.weight.dtype  # never packed, and no adapter stands in its place

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
        each pixel attends to itself alone at the bottom. The three parts are there for callers that keep the output of
        `coarser_levels` of another call (models/step_cache.py).
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
        return self.finest(self.first(sample), shifts, keys_values, merging, residuals.adapter)

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
        skips, x = self.coarser(maps, shifts, keys_values, merging, adapter, perturbed)
        x = x if to_mid is None else x + to_mid
        skips = _added(skips, to_skips)
        for i in range(-self.config.levels, -1):
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

    def with_pictures(
        self, keys_values: list[LevelKeysValues], pictures: Sequence[Sequence[KeysValues]]
    ) -> list[LevelKeysValues]:
        """What `keys_values` gave, with those of pictures behind them.

        pictures  for each attention to the prompt, in the order of models/unet_attentions.py
        """
        down, up = len(self.down_blocks), len(keys_values) - len(self.up_blocks)
        order = [*range(down), *range(up, len(keys_values)), *range(down, up)]
        rest, told = iter(pictures), list(keys_values)
        for level in order:
            told[level] = [
                [[*block, *(self._in_dtype(each) for each in next(rest))] for block in transformer]
                for transformer in keys_values[level]
            ]
        return told

    def _in_dtype(self, arrays: KeysValues) -> KeysValues:
        return tuple(array.astype(self.dtype) for array in arrays)

    def _levels(self) -> list[DownBlock | MidBlock | UpBlock]:
        return [*super()._levels(), *self.up_blocks]


def _added(skips: list[mx.array], residuals: Sequence[mx.array]) -> list[mx.array]:
    """The skip connections with the residuals added, where there are any."""
    return [skip + residual for skip, residual in zip(skips, residuals, strict=True)] if residuals else skips


def _up_block(config: UNetConfig, level: int) -> UpBlock:
    channels = config.block_out_channels
    above = channels[max(level - 1, 0)]
    return UpBlock(
        channels[min(level + 1, config.levels - 1)],
        channels[level],
        # What the level made on its way down; last what it got from above, already halved.
        [channels[level]] * config.layers[level] + [above],
        lambda i, o: resnet_of(config, i, o),
        attend_of(config, level, config.up_transformers[level], config.up_block_types[-1 - level]),
        upsample=level > 0,
    )
