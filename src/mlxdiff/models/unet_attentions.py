"""Where a UNet attends to the prompt, from its config alone: what an IP-Adapter for it must have, in which order."""

from __future__ import annotations

from typing import NamedTuple

from .unet_config import UNetConfig


class Place(NamedTuple):
    """One attention to the prompt: its path as diffusers names it, its widths, and its level from the top."""

    path: str
    width: int
    source_width: int
    level: int


def places(config: UNetConfig) -> list[Place]:
    """All of them, as diffusers counts them: the way down, the way up, and the bottom last."""
    found: list[Place] = []

    def add(block: str, level: int, block_type: str, transformers: tuple[int, ...]) -> None:
        if "CrossAttn" in block_type:
            width, source_width = config.block_out_channels[level], config.cross_attention_dim[level]
            found.extend(
                Place(f"{block}.attentions.{i}.transformer_blocks.{j}.attn2", width, source_width, level)
                for i, n in enumerate(transformers)
                for j in range(n)
            )

    for level, block_type in enumerate(config.down_block_types):
        add(f"down_blocks.{level}", level, block_type, config.down_transformers[level])
    for i, block_type in enumerate(config.up_block_types):
        level = config.levels - 1 - i
        add(f"up_blocks.{i}", level, block_type, config.up_transformers[level])
    add("mid_block", config.levels - 1, str(config.mid_block_type), (config.mid_transformer,))
    return found


def sizes(config: UNetConfig, height: int, width: int) -> list[tuple[int, int]]:
    """Height and width of the feature maps of each level, for latents of that many cells."""
    found = [(height, width)]
    for _ in range(config.levels - 1):
        # A convolution of stride 2 that is padded on both sides, or on one alone.
        height, width = ((side + config.downsample_padding) // 2 for side in found[-1])
        found.append((height, width))
    return found
