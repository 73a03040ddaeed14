"""What other programs write, read; and ComfyUI's default graph to change."""

from __future__ import annotations

import json

from mlxdiff import recipes

CATS = {"prompt": "a cat", "negative_prompt": "dogs", "steps": 20, "seed": 5, "width": 512, "height": 768}


def read(texts: dict[str, str]) -> tuple[dict, list[str]]:
    """The settings that are read, and the sentences about the rest; models are found."""
    recipe = recipes.read(texts, lambda name: f"found/{name}")
    assert recipe is not None
    return dict(recipe.settings), recipes.sayings(recipe)


def comfyui(**changes) -> dict:
    """The graph of ComfyUI's default workflow, as its API takes it."""
    graph = {
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "seed": 5,
                "steps": 20,
                "cfg": 8.0,
                "sampler_name": "dpmpp_2m",
                "scheduler": "karras",
                "denoise": 1.0,
                "model": ["4", 0],
                "positive": ["6", 0],
                "negative": ["7", 0],
                "latent_image": ["5", 0],
            },
        },
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd/v1-5.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 768, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "dogs", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}},
    }
    for name, inputs in changes.items():
        graph[name.lstrip("_")]["inputs"] |= inputs
    return graph


def of_graph(graph: dict) -> tuple[dict, list[str]]:
    return read({"prompt": json.dumps(graph), "workflow": "{}"})
