"""Names of the original implementation (CompVis, Stability AI) to the names that modules carry, without a prefix.

The UNet's names number its blocks in one row, so its table is made from the config; the others are regular
expressions of `checkpoint.rename`. Facts about names only: nothing here reads a file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import mlx.core as mx

from ..errors import CheckpointError
from .rename import Rename, rename_key

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_UNET_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}

# In OpenCLIP a layer is a resblock, and the three projections of its attention are one.
_OPEN_CLIP: Rename = (
    (r"^token_embedding\.", "embeddings.token_embedding."),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^ln_final\.", "final_layer_norm."),
    (r"^text_projection$", "text_projection.weight"),
    (r"^transformer\.resblocks\.", "encoder.layers."),
    (r"\.ln_1\.", ".layer_norm1."),
    (r"\.ln_2\.", ".layer_norm2."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.attn\.", ".self_attn."),
)
_FUSED = ".in_proj_"
_HINT = re.compile(r"input_hint_block\.(\d{1,3})\.")


def unet_modules(config: Mapping[str, Any]) -> dict[str, str]:
    """Original module -> module, for the UNet of a `config.json`; what stands below a module keeps its name."""
    table = dict(_UNET_ENDS)
    layers = config["layers_per_block"]
    number = 0
    for level, kind in enumerate(config["down_block_types"]):
        for layer in range(layers):
            number += 1
            block = f"down_blocks.{level}"
            table |= _resnet(f"input_blocks.{number}.0", f"{block}.resnets.{layer}")
            if kind.startswith("CrossAttn"):
                table[f"input_blocks.{number}.1"] = f"{block}.attentions.{layer}"
        if level < len(config["down_block_types"]) - 1:
            number += 1
            table[f"input_blocks.{number}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
    table |= _resnet("middle_block.0", "mid_block.resnets.0")
    table["middle_block.1"] = "mid_block.attentions.0"
    table |= _resnet("middle_block.2", "mid_block.resnets.1")
    number = 0
    for level, kind in enumerate(config["up_block_types"]):
        attends = kind.startswith("CrossAttn")
        for layer in range(layers + 1):
            block = f"up_blocks.{level}"
            table |= _resnet(f"output_blocks.{number}.0", f"{block}.resnets.{layer}")
            if attends:
                table[f"output_blocks.{number}.1"] = f"{block}.attentions.{layer}"
            number += 1
        if level < len(config["up_block_types"]) - 1:
            table[f"output_blocks.{number - 1}.{2 if attends else 1}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
    return table


def unet_weights(weights: Mapping[str, mx.array], config: Mapping[str, Any]) -> dict[str, mx.array]:
    """The UNet's arrays under the module's names; a key that the config has no place for keeps its own."""
    table = unet_modules(config)
    return {_by_module(key, table): array for key, array in weights.items()}


def controlnet_places(keys: Collection[str], config: Mapping[str, Any]) -> dict[str, str]:
    """Keys of a ControlNet -> its module's names, for the config of the UNet that it steers."""
    table = unet_modules(config)
    last = max((int(found[1]) for key in keys if (found := _HINT.match(key)) is not None), default=0)
    table |= {f"input_hint_block.{2 * i}": f"controlnet_cond_embedding.blocks.{i - 1}" for i in range(1, last // 2)}
    table |= {
        "input_hint_block.0": "controlnet_cond_embedding.conv_in",
        f"input_hint_block.{last}": "controlnet_cond_embedding.conv_out",
        "middle_block_out.0": "controlnet_mid_block",
    }
    table |= {f"zero_convs.{i}.0": f"controlnet_down_blocks.{i}" for i in range(len(keys))}
    return {key: _by_module(key, table) for key in keys}


def vae_names(levels: int) -> Rename:
    """The VAE's names; `levels` is the number of its block_out_channels, since the way up is counted backwards."""
    up = tuple((rf"^decoder\.up\.{level}\.", f"decoder.up_blocks.{levels - 1 - level}.") for level in range(levels))
    return (
        *up,
        (r"^encoder\.down\.", "encoder.down_blocks."),
        (r"_blocks\.(\d+)\.block\.", r"_blocks.\1.resnets."),
        (r"\.downsample\.conv\.", ".downsamplers.0.conv."),
        (r"\.upsample\.conv\.", ".upsamplers.0.conv."),
        (r"\.nin_shortcut\.", ".conv_shortcut."),
        (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
        (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
        (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
        (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
        (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
        (r"^(encoder|decoder)\.norm_out\.", r"\1.conv_norm_out."),
    )


def vae_weights(weights: Mapping[str, mx.array], levels: int) -> dict[str, mx.array]:
    """The VAE's arrays under the module's names; names that are the module's already stay."""
    table = vae_names(levels)
    return {rename_key(key, table): array for key, array in weights.items()}


def open_clip_weights(
    weights: Mapping[str, mx.array], *, layers: int, projects: bool, source: str
) -> dict[str, mx.array]:
    """OpenCLIP's text encoder under CLIP's names, as a module of `layers` layers has them.

    The fused projection of attention is cut in three and the projection of the text transposed: OpenCLIP multiplies
    from the left. SD 2.x uses the last layer but one, so its module lacks the layer after those, and the projection:
    both are left out. Raises CheckpointError where a fused weight does not divide.
    """
    renamed: dict[str, mx.array] = {}
    for key, array in weights.items():
        path = rename_key(key, _OPEN_CLIP)
        if path.startswith(f"encoder.layers.{layers}.") or (path == "text_projection.weight" and not projects):
            continue
        if path == "text_projection.weight" and array.ndim == 2:
            renamed[path] = mx.contiguous(array.T)  # as it is stored elsewhere: matmul sums in another order for a view
        elif _FUSED in path:
            renamed |= _split(path, array, source)
        else:
            renamed[path] = array
    return renamed


def _split(path: str, array: mx.array, source: str) -> Iterator[tuple[str, mx.array]]:
    if array.ndim == 0 or array.shape[0] % 3 != 0:
        raise CheckpointError(
            f"{source} has {path!r} in the shape {tuple(array.shape)}, which is no three projections.",
            "The file is damaged or of another kind: download it again.",
        )
    stem, kind = path.split(_FUSED)
    return zip((f"{stem}.{name}_proj.{kind}" for name in "qkv"), mx.split(array, 3), strict=True)


def _resnet(ldm: str, path: str) -> dict[str, str]:
    return {f"{ldm}.{inner}": f"{path}.{name}" for inner, name in _RESNET.items()}


def _by_module(key: str, table: Mapping[str, str]) -> str:
    """The longest module name that the key starts with decides."""
    head = key
    while (head := head.rpartition(".")[0]) != "":
        if head in table:
            return table[head] + key[len(head) :]
    return key
