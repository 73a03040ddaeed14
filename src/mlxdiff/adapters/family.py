"""Which family an adapter was made for, and which one a model is: from the widths that only one of them has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

SD1, SD2, SDXL = "sd1", "sd2", "sdxl"

WORDS = {SD1: "SD 1.x", SD2: "SD 2.x", SDXL: "SDXL"}
"""What people call them."""

# How wide the context of the UNet's attention is.
_CONTEXT = {768: SD1, 1024: SD2, 2048: SDXL}
# How wide text encoders are that only one family has.
_TEXT = {1024: SD2, 1280: SDXL}
_IN_TEXT = re.compile(r"encoder[._]layers[._]\d+[._](self_attn[._][qkv]_proj|mlp[._]fc1)$")
_ATTENTION = re.compile(r"attn2[._](processor[._])?to_[kv]$")
# SDXL alone has more than one block in a transformer, and a second text encoder.
_IN_SDXL_ALONE = re.compile(
    r"transformer_blocks[._][1-9]|^lora_te2_|^text_encoder_2\.|[._]clip_g[._]|(label_emb|add_embedding)[._]"
)
# sd-scripts calls its models so in the metadata.
_BASES = ((r"sdxl", SDXL), (r"(sd|stable[-_]diffusion)[-_]?v?2", SD2), (r"(sd|stable[-_]diffusion)[-_]?v?1", SD1))


class _Shaped(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...


def of_layers(layers: Mapping[str, Mapping[str, _Shaped]], metadata: Mapping[str, str]) -> str | None:
    """The family of an adapter's layers (name -> part -> tensor): shapes decide before names, those before texts."""
    for name, parts in layers.items():
        if _ATTENTION.search(name) and (found := _CONTEXT.get(_width(parts))) is not None:
            return found
        if _IN_TEXT.search(name) and (found := _TEXT.get(_width(parts))) is not None:
            return found
    if any(map(_IN_SDXL_ALONE.search, layers)):
        return SDXL
    said = metadata.get("ss_base_model_version", "") or metadata.get("modelspec.architecture", "")
    return next((base for pattern, base in _BASES if re.match(pattern, said.lower())), None)


def of_model(shapes: Mapping[str, Mapping[str, tuple[int, ...]]]) -> str | None:
    """The family of a model's parameters (component -> path -> shape)."""
    paths = shapes.get("unet", {})
    width = next((shape[-1] for path, shape in paths.items() if path.endswith("attn2.to_k.weight")), 0)
    if width in _CONTEXT:
        return _CONTEXT[width]
    return SDXL if "add_embedding.linear_1.weight" in paths else None


def _width(parts: Mapping[str, _Shaped]) -> int:
    """How many numbers go into a linear layer that is changed; 0 where that is not seen."""
    for part in ("down", "hada_w1_b", "diff"):
        if part in parts and len(parts[part].shape) == 2:
            return parts[part].shape[1]
    first, second = (
        next((parts[f"{w}{end}"] for end in ("", "_b") if f"{w}{end}" in parts), None) for w in ("lokr_w1", "lokr_w2")
    )
    if first is not None and second is not None and len(first.shape) == len(second.shape) == 2:
        return first.shape[1] * second.shape[1]
    return 0
