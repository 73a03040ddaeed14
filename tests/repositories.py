"""Small repositories in the diffusers layout, whose weights are no weights."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

NAME = "owner/name"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
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


def cached(cache: Path, files: dict[str, bytes], *, name: str = NAME, ref: str = "main", commit: str = COMMIT) -> Path:
    """A snapshot laid out as huggingface_hub does: blobs, links to them, and a branch."""
    storage = cache / f"models--{name.replace('/', '--')}"
    (storage / "blobs").mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        blob = storage / "blobs" / hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        blob.write_bytes(content)
        link = storage / "snapshots" / commit / path
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(blob, link.parent))
    (storage / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
    (storage / "refs" / ref).write_text(commit)
    return storage / "snapshots" / commit
