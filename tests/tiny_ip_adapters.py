"""Tiny random IP-Adapters in the files and folders of their authors, and image encoders, written by transformers."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

PATCH, SIDE = 8, 32  # pixels
HIDDEN, PROJECTED = 40, 24


def vision_config(**changes) -> CLIPVisionConfig:
    values = {
        "hidden_size": HIDDEN,
        "intermediate_size": 56,
        "projection_dim": PROJECTED,
        "num_hidden_layers": 3,
        "num_attention_heads": 5,
        "image_size": SIDE,
        "patch_size": PATCH,
        "hidden_act": "gelu",
    }
    return CLIPVisionConfig(**values | changes)


def vision(**changes) -> CLIPVisionModelWithProjection:
    """An image encoder whose pictures differ: fresh weights are so small that all vectors would be alike."""
    model = CLIPVisionModelWithProjection(vision_config(**changes)).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.25 + ("norm" in name and name.endswith("weight")))
    return model


def cross_attentions(unet) -> list:
    """The attentions to the prompt, as diffusers counts them for IP-Adapters."""
    names = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    modules = dict(unet.named_modules())
    return [modules[name.removesuffix(".processor")] for name in names]


def _attentions(unet) -> dict[str, torch.Tensor]:
    found = {}
    for i, attention in enumerate(cross_attentions(unet)):
        for letter in "kv":
            shape = getattr(attention, f"to_{letter}").weight.shape
            found[f"ip_adapter.{2 * i + 1}.to_{letter}_ip.weight"] = torch.randn(shape) * 0.4
    return found


def _linear(name: str, out: int, source: int, *, bias: bool = True) -> dict[str, torch.Tensor]:
    found = {f"{name}.weight": torch.randn(out, source) * source**-0.5}
    return found | ({f"{name}.bias": torch.randn(out) * 0.3} if bias else {})


def _norm(name: str, width: int) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": 1 + torch.randn(width) * 0.3, f"{name}.bias": torch.randn(width) * 0.3}


def plain(unet) -> dict[str, torch.Tensor]:
    width = unet.config.cross_attention_dim
    made = _linear("image_proj.proj", 4 * width, PROJECTED) | _norm("image_proj.norm", width)
    return made | _attentions(unet)


def full(unet) -> dict[str, torch.Tensor]:
    width = unet.config.cross_attention_dim
    made = _linear("image_proj.proj.0", HIDDEN, HIDDEN) | _linear("image_proj.proj.2", width, HIDDEN)
    return made | _norm("image_proj.proj.3", width) | _attentions(unet)


def plus(unet, *, tokens: int = 3, inner: int = 16, heads: int = 2, depth: int = 4) -> dict[str, torch.Tensor]:
    width, made = unet.config.cross_attention_dim, {"image_proj.latents": torch.randn(1, tokens, inner)}
    made |= _linear("image_proj.proj_in", inner, HIDDEN) | _linear("image_proj.proj_out", width, inner)
    made |= _norm("image_proj.norm_out", width)
    for i in range(depth):
        name = f"image_proj.layers.{i}"
        made |= _norm(f"{name}.0.norm1", inner) | _norm(f"{name}.0.norm2", inner)
        made |= _linear(f"{name}.0.to_q", 64 * heads, inner, bias=False)
        made |= _linear(f"{name}.0.to_kv", 128 * heads, inner, bias=False)
        made |= _linear(f"{name}.0.to_out", inner, 64 * heads, bias=False)
        made |= _norm(f"{name}.1.0", inner)
        made |= _linear(f"{name}.1.1", 4 * inner, inner, bias=False)
        made |= _linear(f"{name}.1.3", inner, 4 * inner, bias=False)
    return made | _attentions(unet)


KINDS = {"plain": plain, "plus": plus, "full": full}


def write(unet, folder: Path, kinds=tuple(KINDS), seed: int = 7) -> Path:
    """A folder of `KIND.safetensors` for a UNet of diffusers, and image_encoder/ beside them."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    vision().save_pretrained(folder / "image_encoder")
    for kind in kinds:
        save_file({key: value.contiguous() for key, value in KINDS[kind](unet).items()}, folder / f"{kind}.safetensors")
    return folder
