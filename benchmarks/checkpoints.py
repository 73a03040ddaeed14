"""The published models with random weights: their architecture, and so their speed, without a download.

The configs are those that mlxdiff knows for files in the original layout (assets/single_file). Weights are uniform with
a variance of 1 / fan-in and norms' gains lie near 1, so that activations keep their spread and fit fp16.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from safetensors.numpy import save_file

from mlxdiff.checkpoint.single_file import PUBLISHED
from mlxdiff.models.clip import CLIPTextConfig, CLIPTextModel
from mlxdiff.models.unet import UNet2DConditionModel, UNetConfig
from mlxdiff.models.vae import AutoencoderKL, VAEConfig
from mlxdiff.text.vocabulary import CLIP_MERGES, clip_vocabulary

MODELS = {"sd15": "sd1", "sd21": "sd2_base", "sdxl": "sdxl", "tiny": "sd2_base"}
TITLES = {"sd15": "SD 1.5", "sd21": "SD 2.1 base", "sdxl": "SDXL", "tiny": "SD 2.1 base, much narrower"}

# Every pipeline gets SDXL's scheduler: Euler's method calls the network once a step in any implementation.
SCHEDULER_OF = "sdxl"

# A model that only shows whether a benchmark runs: as deep as SD 2.1, but narrow.
TINY = {
    "unet": {
        "block_out_channels": [32, 64, 128, 128],
        "cross_attention_dim": 64,
        "attention_head_dim": [1, 2, 4, 4],
    },
    "vae": {"block_out_channels": [32, 32, 64, 64]},
    "text_encoder": {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 2},
}

GAIN_SPREAD = 0.1
BIAS_SPREAD = 0.02


def published(model: str) -> dict[str, Any]:
    """The configs of a model by component, as `config.json` has them."""
    configs = json.loads((PUBLISHED / f"{MODELS[model]}.json").read_text(encoding="utf-8"))
    changes = TINY if model == "tiny" else {}
    return {component: config | changes.get(component, {}) for component, config in configs.items()}


def scheduler() -> dict[str, Any]:
    return published(SCHEDULER_OF)["scheduler"]


def random_weights(module: nn.Module, dtype: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights for each parameter of a module in MLX's layout, by path; `dtype` is numpy's name of their type."""
    parameters: dict[str, mx.array] = dict(tree_flatten(module.parameters()))
    rng = np.random.default_rng(seed)
    return {path: _draw(rng, path, array.shape).astype(dtype) for path, array in parameters.items()}


def _draw(rng: np.random.Generator, path: str, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) > 1:
        centre, spread = 0.0, math.sqrt(3 / math.prod(shape[1:]))
    elif path.endswith("weight"):
        centre, spread = 1.0, GAIN_SPREAD
    else:
        centre, spread = 0.0, BIAS_SPREAD
    drawn = rng.random(shape, np.float32)
    drawn *= 2 * spread
    drawn += centre - spread
    return drawn


def torch_layout(array: np.ndarray) -> np.ndarray:
    """A parameter in torch's layout: convolutions go from OHWI to OIHW. A view."""
    return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array


def write(model: str, folder: Path) -> Path:
    """Writes a whole checkpoint in the diffusers layout, weights in fp16 and CLIP's own tokenizer."""
    configs = published(model)
    configs["scheduler"] = scheduler()
    configs["model_index"]["scheduler"] = ["diffusers", configs["scheduler"]["_class_name"]]
    for component, config in configs.items():
        if component.startswith("tokenizer"):
            _write_tokenizer(folder / component, **config)
        elif component != "model_index":
            name = "scheduler_config" if component == "scheduler" else "config"
            _write_json(folder / component / f"{name}.json", config)
    _write_json(folder / "model_index.json", configs["model_index"])
    for component, file, module in _networks(configs):
        # transformers' own name for a text encoder's weights, as files from the hub have it
        prefix = "text_model." if component.startswith("text_encoder") else ""
        weights = {
            path if path.startswith("text_projection") else prefix + path: np.ascontiguousarray(torch_layout(array))
            for path, array in random_weights(module, "float16").items()
        }
        save_file(weights, folder / component / file, {"format": "pt"})
    return folder


def _networks(configs: dict[str, Any]) -> Iterator[tuple[str, str, nn.Module]]:
    """(component, file of its weights, the network unfilled) of a pipeline."""
    yield "unet", "diffusion_pytorch_model.safetensors", UNet2DConditionModel(UNetConfig.from_dict(configs["unet"]))
    yield "vae", "diffusion_pytorch_model.safetensors", AutoencoderKL(VAEConfig.from_dict(configs["vae"]))
    for component in ("text_encoder", "text_encoder_2"):
        if component in configs:
            config = CLIPTextConfig.from_dict(configs[component])
            yield component, "model.safetensors", CLIPTextModel(config, with_projection=component.endswith("_2"))


def _write_tokenizer(folder: Path, pad_token: str = "<|endoftext|>") -> None:
    vocabulary = clip_vocabulary()
    _write_json(folder / "vocab.json", dict(vocabulary.ids))
    (folder / "merges.txt").write_bytes(gzip.decompress(CLIP_MERGES.read_bytes()))
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    special["pad_token"] = pad_token
    config = {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True, "errors": "replace"}
    _write_json(folder / "tokenizer_config.json", config | special)
    _write_json(folder / "special_tokens_map.json", special)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
