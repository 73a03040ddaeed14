"""Small repositories in the diffusers layout, whose weights are no weights."""

from __future__ import annotations

import json
from pathlib import Path

COMPONENTS = ("unet", "vae", "text_encoder")
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "scheduler": ["diffusers", "DDIMScheduler"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "image_encoder": [None, None],
}


def repository(weights: str = "{stem}.safetensors", **others: bytes) -> dict[str, bytes]:
    """A small repository in the diffusers layout; each component's weights are named by a pattern."""
    files = {
        "model_index.json": json.dumps(INDEX).encode(),
        "scheduler/scheduler_config.json": b"{}",
        "tokenizer/vocab.json": b'{"a": 0}',
        "tokenizer/merges.txt": b"#version: 0.2\n",
    }
    for component in COMPONENTS:
        stem = "model" if component == "text_encoder" else "diffusion_pytorch_model"
        files[f"{component}/config.json"] = b'{"of": "%s"}' % component.encode()
        files[f"{component}/{weights.format(stem=stem)}"] = component.encode() * 1000
    return files | others


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """Puts files below a folder."""
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder
