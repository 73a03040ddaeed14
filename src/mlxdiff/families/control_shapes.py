"""A control in one file has no config.json: what its names and shapes say of it, in the words of one.

A ControlNet is a copy of a UNet's way down, so what its shapes do not say is that UNet's own. No file is read here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..checkpoint.rename import Rename, rename_key
from ..errors import CheckpointError
from ..models.controlnet import UNION
from ..models.t2i_adapter import LIGHT
from ..models.unet_config import UNetConfig

Shapes = Mapping[str, tuple[int, ...]]

_CONTEXT = re.compile(r".*\.attn2\.to_k\.weight")
_ADAPTER_BLOCK = re.compile(r"adapter\.body\.(\d{1,3})\.resnets\.(\d{1,3})\.block1\.weight")

# Tencent's own names of an adapter: a full one's residual blocks in one row, two a level; a light one's in rows apart.
_ADAPTER_NAMES: Rename = (
    (r"^body\.(\d+)\.body\.(\d+)\.", r"adapter.body.\1.resnets.\2."),
    (r"^(conv_in|body)\.", r"adapter.\1."),
)
_IN_ONE_ROW = re.compile(r"adapter\.body\.(\d{1,3})\.(block\d|in_conv)\.(.*)")


def context_width(shapes: Shapes) -> int | None:
    """How wide the prompts are that a ControlNet reads; None for one without attention."""
    return next((shape[-1] for key, shape in shapes.items() if _CONTEXT.fullmatch(key) and shape), None)


def controlnet_values(shapes: Shapes, name: str, unet: UNetConfig, unet_values: Mapping[str, Any]) -> dict[str, Any]:
    """What the config.json of a ControlNet would say, under its module's names; `unet_values` is the UNet's.

    Raises CheckpointError where a part is missing without which nothing can be said.
    """
    levels = range(unet.levels)
    attends = [f"down_blocks.{level}.attentions.0.norm.weight" in shapes for level in levels]
    mid_attends = "mid_block.attentions.0.norm.weight" in shapes
    picture, *embedding = _picture_channels(shapes, name)
    first = shapes.get("conv_in.weight", ())
    if len(first) != 4:
        raise CheckpointError(f"{name} lacks the first layer of a ControlNet.", "Download it again.")
    values = {
        **{key: value for key, value in unet_values.items() if not key.startswith("_")},
        "in_channels": first[1],
        "conv_in_kernel": first[2],
        "down_block_types": ["CrossAttnDownBlock2D" if each else "DownBlock2D" for each in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if each else "UpBlock2D" for each in reversed(attends)],
        "mid_block_type": "UNetMidBlock2DCrossAttn" if mid_attends else "UNetMidBlock2D",
        "transformer_layers_per_block": [_depth(shapes, level, unet.levels) for level in levels],
        "reverse_transformer_layers_per_block": None,
        "time_cond_proj_dim": None,
        "addition_embed_type": "text_time" if reads_sizes(shapes) else None,
        "conditioning_channels": picture,
        "conditioning_embedding_out_channels": embedding,
    }
    task = shapes.get("task_embedding", ())
    if len(task) == 2:
        found = (re.match(r"transformer_layes\.(\d{1,2})\.", key) for key in shapes)
        values |= {
            "_class_name": UNION[0],
            "num_control_type": task[0],
            "num_trans_channel": task[1],
            "num_proj_channel": unet.block_out_channels[0],
            "num_trans_layer": 1 + max((int(match[1]) for match in found if match is not None), default=0),
        }
    return values


def reads_sizes(shapes: Iterable[str]) -> bool:
    """Whether a ControlNet takes SDXL's pooled prompts and sizes."""
    return any(key.startswith("add_embedding.") for key in shapes)


def adapter_places(keys: Iterable[str]) -> dict[str, str]:
    """Keys of a T2I-Adapter, diffusers' or Tencent's -> its module's names."""
    places = {key: rename_key(key, _ADAPTER_NAMES) for key in keys}
    if any(re.fullmatch(r"adapter\.body\.\d+\.block1\.weight", place) for place in places.values()):
        places = {key: _out_of_row(place) for key, place in places.items()}
    return places


def adapter_values(shapes: Shapes, name: str) -> dict[str, Any]:
    """What the config.json of a T2I-Adapter would say, but not whether a full one is SDXL's. Raises CheckpointError."""
    light = "adapter.conv_in.weight" not in shapes
    blocks = [(int(found[1]), int(found[2])) for key in shapes if (found := _ADAPTER_BLOCK.fullmatch(key)) is not None]
    body, depth = (1 + max((pair[i] for pair in blocks), default=-1) for i in range(2))
    seen = shapes.get(f"adapter.{'body.0.in_conv' if light else 'conv_in'}.weight", ())
    last = "out_conv" if light else "resnets.0.block1"
    outputs = [shapes.get(f"adapter.body.{i}.{last}.weight", ()) for i in range(body)]
    if len(seen) != 4 or not outputs or any(len(shape) != 4 for shape in outputs):
        raise CheckpointError(f"{name} lacks a part of a T2I-Adapter.", "Download it again.")
    sides = {c: math.isqrt(seen[1] // c) for c in (3, 1)}
    fitting = [c for c, side in sides.items() if side > 0 and side * side * c == seen[1]]
    if not fitting:
        raise CheckpointError(f"{name} takes {seen[1]} numbers a cell, which are no square.", "Download it again.")
    channels = [shape[0] for shape in outputs]
    return {
        **({"adapter_type": LIGHT} if light else {}),
        "channels": channels[:-1] if light else channels,
        "in_channels": fitting[0],
        "num_res_blocks": depth,
        "downscale_factor": sides[fitting[0]],
    }


def _picture_channels(shapes: Shapes, name: str) -> list[int]:
    """Channels of the picture, and of its embedding wherever that changes them."""
    stem = "controlnet_cond_embedding."
    blocks = (re.match(rf"{re.escape(stem)}blocks\.(\d{{1,2}})\.", key) for key in shapes)
    n = 1 + max((int(found[1]) for found in blocks if found is not None), default=-1)
    keys = [f"{stem}conv_in.weight", *(f"{stem}blocks.{i}.weight" for i in range(1, n, 2))]
    found = [shapes.get(key, ()) for key in keys]
    if any(len(shape) != 4 for shape in found):
        raise CheckpointError(f"{name} lacks a part of what reads its picture.", "Download it again.")
    return [found[0][1], *(shape[0] for shape in found)]


def _depth(shapes: Shapes, level: int, levels: int) -> int:
    """Transformer layers of a level, or of the bottom where the last level has none; the same for all of its blocks."""
    for place in (f"down_blocks.{level}.", *(["mid_block."] if level == levels - 1 else [])):
        pattern = re.compile(rf"{re.escape(place)}attentions\.0\.transformer_blocks\.(\d{{1,3}})\.")
        found = [int(match[1]) for key in shapes if (match := pattern.match(key)) is not None]
        if found:
            return 1 + max(found)
    return 1


def _out_of_row(place: str) -> str:
    found = _IN_ONE_ROW.fullmatch(place)
    if found is None:
        return place
    level, block = divmod(int(found[1]), 2)
    inner = found[2] if found[2] == "in_conv" else f"resnets.{block}.{found[2]}"
    return f"adapter.body.{level}.{inner}.{found[3]}"
