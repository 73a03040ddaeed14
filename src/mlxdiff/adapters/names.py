"""Where in a model a module is that an adapter names: every program writes the same modules in its own way.

Names are compared with underscores for dots, since kohya's have no others. Facts about names only: no file is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..checkpoint.ldm_names import unet_modules

UNET, TEXT, TEXT_2 = "unet", "text_encoder", "text_encoder_2"

# What stands before the names of a component; the longest that fits decides. SDXL's refiner has the second encoder
# alone.
_PREFIXES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("lora_unet_", (UNET,)),
    ("lycoris_unet_", (UNET,)),
    ("unet_", (UNET,)),
    ("diffusion_model_", (UNET,)),
    ("model_diffusion_model_", (UNET,)),
    ("lora_te_", (TEXT, TEXT_2)),
    ("lora_te1_", (TEXT,)),
    ("lora_te2_", (TEXT_2,)),
    ("lycoris_te_", (TEXT, TEXT_2)),
    ("lycoris_te1_", (TEXT,)),
    ("lycoris_te2_", (TEXT_2,)),
    ("text_encoder_", (TEXT,)),
    ("text_encoder_2_", (TEXT_2,)),
    ("text_encoders_clip_l_transformer_", (TEXT,)),
    ("text_encoders_clip_h_transformer_", (TEXT,)),
    ("text_encoders_clip_g_transformer_", (TEXT_2,)),
    ("lycoris_text_encoder_", (TEXT,)),
    ("lycoris_text_encoder_2_", (TEXT_2,)),
    ("unet_base_model_model_", (UNET,)),
    ("text_encoder_base_model_model_", (TEXT,)),
    ("text_encoder_2_base_model_model_", (TEXT_2,)),
    ("base_model_model_", (UNET, TEXT, TEXT_2)),
    ("lycoris_", (UNET, TEXT, TEXT_2)),
    ("", (UNET, TEXT, TEXT_2)),
)
# How diffusers named attention's projections when processors had weights.
_OLD = (
    (r"_processor_to_", "_to_"),
    (r"_to_out$", "_to_out_0"),
    (r"_self_attn_to_([qkv])$", r"_self_attn_\1_proj"),
    (r"_self_attn_to_out(_0)?$", "_self_attn_out_proj"),
)


class Place(NamedTuple):
    """A module of a model: `unet`, `text_encoder` or `text_encoder_2`, and its path inside."""

    component: str
    path: str


class Places:
    """The modules of a model, found by any name. `shapes`: component -> path of a parameter -> its shape."""

    def __init__(self, shapes: Mapping[str, Mapping[str, tuple[int, ...]]]) -> None:
        self._by_name = {
            component: _names(component, {path.rpartition(".")[0] for path in paths})
            for component, paths in shapes.items()
        }

    def find(self, name: str) -> list[Place]:
        """The places that a name may mean: one, or one in each text encoder where it does not say which; or none."""
        flat = name.replace(".", "_")
        prefix, components = max((row for row in _PREFIXES if flat.startswith(row[0])), key=lambda row: len(row[0]))
        rest = flat[len(prefix) :]
        old = rest
        for pattern, replacement in _OLD:
            old = re.sub(pattern, replacement, old)
        found = []
        for component in components:
            names = self._by_name.get(component, {})
            path = next((names[known] for known in (rest, old) if known in names), None)
            if path is not None:
                found.append(Place(component, path))
        return found


def component_of(name: str) -> str:
    """The component that a name is about, for a file without a model: a text encoder's names tell what they are."""
    flat = name.replace(".", "_")
    _, components = max((row for row in _PREFIXES if flat.startswith(row[0])), key=lambda row: len(row[0]))
    if len(components) == 1 or UNET not in components:
        return components[0]
    return TEXT if re.search(r"(^|_)(text_model|encoder_layers|text_projection)_", f"{flat}_") else UNET


def original_names(paths: Iterable[str]) -> dict[str, str]:
    """path -> the original implementation's name, for the modules of a UNet."""
    paths = sorted(paths)
    by_module = {module: original for original, module in unet_modules(_config(paths)).items()}
    names = {}
    for path in paths:
        head = path
        while head and head not in by_module:
            head = head.rpartition(".")[0]
        if head:
            names[path] = f"{by_module[head]}{path[len(head) :]}"
    return names


def _names(component: str, paths: Iterable[str]) -> dict[str, str]:
    """name without dots -> path."""
    paths = sorted(paths)
    names = {path.replace(".", "_"): path for path in paths}
    if component != UNET:
        return names | {f"text_model_{name}": path for name, path in names.items()}
    return names | {original.replace(".", "_"): path for path, original in original_names(paths).items()}


def _config(paths: Iterable[str]) -> dict[str, object]:
    """What unet_modules reads of a config, from the modules that there are."""
    levels = {int(found[1]) for path in paths if (found := re.match(r"down_blocks\.(\d+)\.", path))}
    layers = {int(found[1]) for path in paths if (found := re.match(r"down_blocks\.\d+\.resnets\.(\d+)\.", path))}

    def kinds(way: str) -> list[str]:
        return [
            "CrossAttn" if any(path.startswith(f"{way}_blocks.{level}.attentions.") for path in paths) else "Plain"
            for level in sorted(levels)
        ]

    return {
        "layers_per_block": max(layers, default=-1) + 1,
        "down_block_types": kinds("down"),
        "up_block_types": kinds("up"),
    }
