"""Tiny random ControlNets and T2I-Adapters for the pipelines of tiny.py, written by diffusers.

What a fresh ControlNet has as zeros is random here: else nothing that it adds would count.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import ControlNetModel, ControlNetUnionModel, T2IAdapter, UNet2DConditionModel

# The tiny VAEs halve a picture once, so what reads a control picture does too.
EMBEDDING = (8, 16)
_SHARED = (
    "block_out_channels",
    "layers_per_block",
    "down_block_types",
    "cross_attention_dim",
    "attention_head_dim",
    "norm_num_groups",
    "use_linear_projection",
    "transformer_layers_per_block",
    "addition_embed_type",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
)


def controlnet(unet: UNet2DConditionModel, seed: int = 0, kind=ControlNetModel, **changes):
    """A random ControlNet for a UNet; `kind` is the class."""
    torch.manual_seed(seed)
    values = {name: unet.config[name] for name in _SHARED}
    return randomized(kind(**values | {"conditioning_embedding_out_channels": EMBEDDING} | changes))


def union(unet: UNet2DConditionModel, seed: int = 0):
    """A random ControlNet-Union for a UNet."""
    width = unet.config.block_out_channels[0]
    return controlnet(
        unet, seed, ControlNetUnionModel, num_trans_channel=width, num_proj_channel=width, num_trans_head=4
    )


def adapter(kind: str = "full_adapter", seed: int = 0, **changes) -> T2IAdapter:
    """A random T2I-Adapter for the tiny SD (full, light) or SDXL UNet."""
    torch.manual_seed(seed)
    values = {"channels": [32, 64], "num_res_blocks": 2, "downscale_factor": 2, "adapter_type": kind}
    if kind == "full_adapter_xl":
        values["downscale_factor"] = 4
    return T2IAdapter(**values | changes).eval().requires_grad_(False)


def randomized(network):
    """Norms, and layers that begin as zeros, with random weights."""
    network = network.eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        if not parameter.any() or "norm" in name:
            parameter.copy_(torch.randn_like(parameter) * 0.2 + ("norm" in name and name.endswith("weight")))
    return network


def write(network, folder: Path) -> Path:
    network.save_pretrained(folder)
    return folder
