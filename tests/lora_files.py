"""Random LoRA files for tiny pipelines, written by diffusers and PEFT or in kohya's naming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file

IN_UNET = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv"]
IN_TEXT = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
COMPONENTS = ("unet", "text_encoder", "text_encoder_2")


def networks(pipe: Any, components=COMPONENTS) -> dict[str, torch.nn.Module]:
    return {name: pipe.components[name] for name in components if pipe.components.get(name) is not None}


def weights(module: torch.nn.Module, config: LoraConfig, seed: int) -> dict[str, torch.Tensor]:
    """A random LoRA for a module, in PEFT's names. The module keeps it: give one that is not used again."""
    inject_adapter_in_model(config, module)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if ".lora_" in name:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    return get_peft_model_state_dict(module)


def by_diffusers(
    pipe: Any, folder: Path, *, seed: int = 1, rank: int = 4, alpha: int = 2, components=COMPONENTS
) -> Path:
    """pytorch_lora_weights.safetensors in a folder, as `save_lora_weights` writes it; returns the file."""
    layers, about = {}, {}
    for component, module in networks(pipe, components).items():
        targets = IN_UNET if component == "unet" else IN_TEXT
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets)
        layers[f"{component}_lora_layers"] = weights(module, config, seed)
        about[f"{component}_lora_adapter_metadata"] = config.to_dict()
    pipe.save_lora_weights(folder, **layers, **about)
    return folder / "pytorch_lora_weights.safetensors"


def by_kohya(pipe: Any, path: Path, *, seed: int = 1, rank: int = 3, alpha: float = 1.5, components=COMPONENTS) -> Path:
    """One file with sd-scripts' names, alphas and metadata."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    found = networks(pipe, components)
    for component, module in found.items():
        number = "" if pipe.components.get("text_encoder_2") is None else {"text_encoder_2": "2"}.get(component, "1")
        for name, layer in module.named_modules():
            wanted = IN_UNET if component == "unet" else IN_TEXT
            if not any(name == each or name.endswith(f".{each}") for each in wanted) or not hasattr(layer, "weight"):
                continue
            inner = name if component == "unet" or name.startswith("text_model.") else f"text_model.{name}"
            key = ("lora_unet_" if component == "unet" else f"lora_te{number}_") + inner.replace(".", "_")
            shape = layer.weight.shape
            tail = [1] * (len(shape) - 2)
            tensors[f"{key}.lora_down.weight"] = torch.randn(rank, *shape[1:], generator=generator) * 0.3
            tensors[f"{key}.lora_up.weight"] = torch.randn(shape[0], rank, *tail, generator=generator) * 0.3
            tensors[f"{key}.alpha"] = torch.tensor(alpha)
    save_file(tensors, path, {"ss_network_dim": str(rank), "ss_network_alpha": str(alpha), "ss_output_name": path.stem})
    return path
