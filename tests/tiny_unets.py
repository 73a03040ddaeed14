"""Small UNets of every family that mlxdiff knows, as configs for diffusers' UNet2DConditionModel."""

from __future__ import annotations

import json
from typing import Any

import torch
from diffusers import UNet2DConditionModel

_TINY = {
    "sample_size": 8,
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 24,
    "attention_head_dim": 2,
    "norm_num_groups": 8,
}
_TEXT_TIME = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "use_linear_projection": True,
}
_ALL_CROSS = {
    "down_block_types": ["CrossAttnDownBlock2D"] * 2,
    "up_block_types": ["CrossAttnUpBlock2D"] * 2,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "sd1": {},
    "sd2": {"attention_head_dim": [2, 4], "use_linear_projection": True, "upcast_attention": True},
    "sdxl": {
        **_TEXT_TIME,
        "block_out_channels": [16, 32, 48],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": [2, 4, 6],
        "transformer_layers_per_block": [1, 2, 3],
        "projection_class_embeddings_input_dim": 6 * 8 + 20,
    },
    "refiner": {**_TEXT_TIME, **_ALL_CROSS, "projection_class_embeddings_input_dim": 5 * 8 + 20},
    "inpainting": {"in_channels": 9},
    "pix2pix": {"in_channels": 8},
    "lcm": {"time_cond_proj_dim": 12},
    "one-level": {
        "block_out_channels": [16],
        "down_block_types": ["CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D"],
    },
    "four-levels": {
        "block_out_channels": [8, 16, 24, 32],
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "layers_per_block": 2,
    },
    "per-level": {
        **_ALL_CROSS,
        "layers_per_block": [1, 3],
        "cross_attention_dim": [24, 24],
        "only_cross_attention": [True, False],
        "transformer_layers_per_block": [2, 1],
    },
    "nested-transformers": {
        **_ALL_CROSS,
        "layers_per_block": 2,
        "transformer_layers_per_block": [[1, 2], [3, 1]],
        "reverse_transformer_layers_per_block": [[2, 1, 1], [1, 2, 3]],
    },
    "asymmetric": {
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": 2,
        "only_cross_attention": True,
    },
    "plain-mid": {"mid_block_type": "UNetMidBlock2D"},
    "no-mid": {"mid_block_type": None},
    "odd-settings": {
        "downsample_padding": 0,
        "mid_block_scale_factor": 1.5,
        "resnet_out_scale_factor": 3.0,
        "norm_eps": 1e-3,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "conv_in_kernel": 5,
        "conv_out_kernel": 1,
        "time_embedding_dim": 40,
        "center_input_sample": True,
        "act_fn": "swish",
        "out_channels": 7,
    },
}


def config(name: str, **changes: Any) -> dict[str, Any]:
    """The values of one of CONFIGS as a `config.json` has them: diffusers' defaults are left out."""
    return _TINY | CONFIGS[name] | changes


def make(values: dict[str, Any]) -> UNet2DConditionModel:
    """A random UNet of these values. Norms' gains and biases are random too: fresh ones would hide a mix-up."""
    unet = UNet2DConditionModel(**json.loads(json.dumps(values))).eval().requires_grad_(False)
    for name, parameter in unet.named_parameters():
        if "norm" in name:
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (1 if name.endswith("weight") else 0))
    return unet
