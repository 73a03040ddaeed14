"""A hub on this machine and an empty cache, with the real huggingface_hub between them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import HubServer
from huggingface_hub import constants

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


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer(page_size=4) as server:
        yield server


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache. huggingface_hub reads its environment once, so its constants are set as that would set them."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return tmp_path / "hf" / "hub"


@pytest.fixture
def online(server, cache, monkeypatch) -> HubServer:
    """The hub is `server` and the cache is empty."""
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    return server
