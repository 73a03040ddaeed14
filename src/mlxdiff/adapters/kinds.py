"""What a layer is, from its parts alone: the name of its form, and its rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class _Shaped(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...


def form_of(parts: Mapping[str, _Shaped], numbers: Mapping[str, float]) -> str:
    """What people call the form of a layer's change."""
    if "embedding_up" in parts:
        name = "LoRA"
    elif "up" in parts or "down" in parts:
        kernel = parts["mid" if "mid" in parts else "down"].shape[2:] if "down" in parts else ()
        name = "LoRA" if tuple(kernel) in ((), (1, 1)) and "mid" not in parts else "LoCon"
    elif any(part.startswith("hada") for part in parts):
        name = "LoHa"
    elif any(part.startswith("lokr") for part in parts):
        name = "LoKr"
    elif any(part.startswith("glora") for part in parts):
        name = "GLoRA"
    elif any(part.startswith("oft") for part in parts):
        name = "OFT"
    elif "diff" in parts or "diff_bias" in parts:
        name = "difference"
    elif "factor" in parts or "on_input" in numbers:
        name = "IA3"
    else:
        name = "whole weights"
    return f"{name} with DoRA" if "magnitude" in parts or "row_magnitude" in parts else name


def rank_of(parts: Mapping[str, _Shaped]) -> int | None:
    """The rank of a layer's change; None for a form without."""
    for part in ("down", "embedding_down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b", "glora_a2"):
        if part in parts:
            return parts[part].shape[0]
    return None
