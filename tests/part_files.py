"""Small files of every kind of part, with the names that published ones have; weights are no weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

KOHYA = "lora_unet_down_blocks_0_attentions_0_proj_in"


def tensors(**shapes: tuple[int, ...]) -> bytes:
    """A file of zeros with these names (__ for a dot) and shapes."""
    return file_of({name.replace("__", "."): shape for name, shape in shapes.items()})


def file_of(shapes: dict[str, tuple[int, ...]], metadata: dict[str, str] | None = None, fill: float = 0.0) -> bytes:
    return save({name: np.full(shape, fill, np.float32) for name, shape in shapes.items()}, metadata)


def lora(fill: float = 0.0, **metadata: str) -> bytes:
    """A LoRA under kohya's names."""
    shapes = {f"{KOHYA}.lora_down.weight": (4, 32), f"{KOHYA}.lora_up.weight": (32, 4), f"{KOHYA}.alpha": ()}
    return file_of(shapes, metadata or None, fill)


def component(class_name: str) -> dict[str, bytes]:
    """A component in diffusers' layout, at the root."""
    return {
        "config.json": json.dumps({"_class_name": class_name, "_diffusers_version": "0.31.0"}).encode(),
        "diffusion_pytorch_model.safetensors": file_of({"conv_in.weight": (4, 4, 3, 3)}, None, 1.0),
    }


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
