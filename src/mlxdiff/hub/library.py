"""What a picture is made with besides its model (LoRAs, embeddings, ...), by name, path or hub id; no network."""

from __future__ import annotations

from pathlib import Path

from ..errors import ModelNotFoundError
from .local import resolve
from .reference import SINGLE_FILE, as_path

KINDS = {
    "embedding": "embedding",
    "lora": "LoRA",
    "control": "ControlNet",
    "ip_adapter": "IP-Adapter",
    "image_encoder": "image encoder",
    "upscaler": "upscaler",
}
"""The kinds of parts, and what people call them."""


def find_part(reference: str, kind: str) -> Path:
    """The .safetensors file or the folder of a part. Raises ModelNotFoundError and UnsupportedError."""
    path = as_path(reference)
    if path is not None and (path.is_dir() or (path.is_file() and path.suffix.lower() == SINGLE_FILE)):
        return path
    if "/" not in reference:
        raise ModelNotFoundError(
            f"There is no file {reference}.",
            f"{_article(KINDS[kind])} is a .safetensors file on this machine; one on the hub has to be downloaded"
            " first.",
        )
    return resolve(reference).path


def _article(noun: str) -> str:
    return f"An {noun}" if noun[0] in "aeiouIU" else f"A {noun}"
