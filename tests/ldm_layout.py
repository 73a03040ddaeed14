"""diffusers' modules written in the original layout: the inverse of what loading does, judged by diffusers' own loader.

Tensors may be torch's real ones or on torch's meta device, where they have shapes alone.
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from mlxdiff.text.vocabulary import CLIP_MERGES

Tensors = dict[str, torch.Tensor]

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def unet(tensors: Mapping[str, torch.Tensor], layers: int) -> Tensors:
    """A UNet's state dict in the original names, `layers` to a block on the way down."""
    return {f"model.diffusion_model.{_unet_name(key, layers, tensors)}": value for key, value in tensors.items()}


def _unet_name(key: str, layers: int, tensors: Mapping[str, torch.Tensor]) -> str:
    for ours, theirs in ENDS.items():
        if key.startswith(f"{ours}."):
            return theirs + key[len(ours) :]
    part, *rest = key.split(".")
    if part == "mid_block":
        kind, index, *inner = rest
        return f"middle_block.{2 * int(index) if kind == 'resnets' else 1}.{_inner(kind, inner)}"
    level, kind, index, *inner = rest
    if part == "down_blocks":
        row = 1 + int(level) * (layers + 1) + (layers if kind == "downsamplers" else int(index))
        return f"input_blocks.{row}.{'0.op.' + inner[-1] if kind == 'downsamplers' else _slot(kind, inner)}"
    row = int(level) * (layers + 1) + (layers if kind == "upsamplers" else int(index))
    attends = any(name.startswith(f"up_blocks.{level}.attentions.") for name in tensors)
    return f"output_blocks.{row}.{f'{1 + attends}.conv.{inner[-1]}' if kind == 'upsamplers' else _slot(kind, inner)}"


def _slot(kind: str, inner: list[str]) -> str:
    return f"{0 if kind == 'resnets' else 1}.{_inner(kind, inner)}"


def _inner(kind: str, inner: list[str]) -> str:
    return ".".join([RESNET[inner[0]], *inner[1:]] if kind == "resnets" else inner)


def vae(tensors: Mapping[str, torch.Tensor], levels: int, prefix: str = "first_stage_model.") -> Tensors:
    """A VAE's state dict in the original names: attention as 1x1 convolutions, the way up counted from the top."""
    found = {}
    for key, value in tensors.items():
        name = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        for level in range(levels):
            name = name.replace(f"up_blocks.{level}.", f"up.{levels - 1 - level}.")
        name = name.replace("down_blocks.", "down.").replace(".downsamplers.0.", ".downsample.")
        name = name.replace(".upsamplers.0.", ".upsample.")
        name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        name = name.replace(".resnets.", ".block.")
        if ".attentions.0." in name:
            name = name.replace("mid_block.attentions.0.", "mid.attn_1.").replace("group_norm", "norm")
            for ours, theirs in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
                name = name.replace(f".{ours}.", f".{theirs}.")
            value = value[:, :, None, None] if value.ndim == 2 else value
        found[prefix + name] = value
    return found


def clip(tensors: Mapping[str, torch.Tensor], prefix: str) -> Tensors:
    """A text encoder in transformers' names, which all began with `text_model.` then."""
    return {f"{prefix}text_model.{key.removeprefix('text_model.')}": value for key, value in tensors.items()}


def open_clip(tensors: Mapping[str, torch.Tensor], prefix: str) -> Tensors:
    """A text encoder in OpenCLIP's names, with q, k and v in one weight and the projection transposed."""
    tensors = {key.removeprefix("text_model."): value for key, value in tensors.items()}
    found = {}
    for key, value in tensors.items():
        if "k_proj" in key or "v_proj" in key:
            continue
        if "q_proj" in key:
            value = torch.cat([tensors[key.replace("q_proj", f"{name}_proj")] for name in "qkv"])
            key = key.replace("q_proj.", "in_proj_")
        name = key.replace("encoder.layers", "transformer.resblocks").replace("self_attn", "attn")
        name = (
            name.replace("layer_norm1", "ln_1").replace("layer_norm2", "ln_2").replace("final_layer_norm", "ln_final")
        )
        name = (
            name.replace("fc1", "c_fc")
            .replace("fc2", "c_proj")
            .replace("embeddings.token_embedding", "token_embedding")
        )
        name = name.replace("embeddings.position_embedding.weight", "positional_embedding")
        if name == "text_projection.weight":
            name, value = "text_projection", value.T
        found[prefix + name] = value
    return found


def whole(architecture: str, parts: Mapping[str, torch.nn.Module]) -> Tensors:
    """A whole checkpoint: `parts` are diffusers' and transformers' modules by component."""
    states = {name: part.state_dict() for name, part in parts.items()}
    found = unet(states["unet"], parts["unet"].config["layers_per_block"])
    if "vae" in states:
        found |= vae(states["vae"], len(parts["vae"].config["block_out_channels"]))
    if architecture == "sd1":
        found |= clip(states["text_encoder"], "cond_stage_model.transformer.")
    elif architecture == "sd2":
        found |= open_clip(states["text_encoder"], "cond_stage_model.model.")
    elif architecture == "sdxl":
        found |= clip(states["text_encoder"], "conditioner.embedders.0.transformer.")
        found |= open_clip(states["text_encoder_2"], "conditioner.embedders.1.model.")
    else:
        found |= open_clip(states["text_encoder_2"], "conditioner.embedders.0.model.")
    return {key: value.contiguous() for key, value in found.items()}


def write_sparse(path: Path, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str] | None = None) -> Path:
    """A safetensors file of fp16 zeros that takes no room on disk, whatever its size."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for key, shape in shapes.items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        header[key] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + end)
    return path


def write_tokenizer(folder: Path) -> Path:
    """CLIP's vocabulary as files."""
    merges = gzip.decompress(CLIP_MERGES.read_bytes()).decode().splitlines()[1:]
    letters = list(bytes_to_unicode().values())
    joined = (merge.replace(" ", "") for merge in merges)
    vocab = [*letters, *(letter + "</w>" for letter in letters), *joined, "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({symbol: i for i, symbol in enumerate(vocab)}), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    return folder


def tokenizer(folder: Path, pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(folder, pad_token=pad_token)


def controlnet(tensors: Mapping[str, torch.Tensor], layers: int, prefix: str = "control_model.") -> Tensors:
    """A ControlNet's state dict in the original names, `layers` to a block."""
    blocks = sum(key.startswith("controlnet_cond_embedding.blocks.") for key in tensors) // 2
    found = {}
    for key, value in tensors.items():
        part, *rest = key.split(".")
        if part == "controlnet_cond_embedding":
            row = {"conv_in": 0, "conv_out": 2 * (blocks + 1)}.get(rest[0])
            name = f"input_hint_block.{2 * (int(rest[1]) + 1) if row is None else row}.{rest[-1]}"
        elif part == "controlnet_down_blocks":
            name = f"zero_convs.{rest[0]}.0.{rest[1]}"
        elif part == "controlnet_mid_block":
            name = f"middle_block_out.0.{rest[0]}"
        else:
            name = _unet_name(key, layers, tensors)
        found[prefix + name] = value.contiguous()
    return found


def t2i_adapter(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """A T2I-Adapter's state dict in Tencent's names: a full one's residual blocks in one row, two a level."""
    light = "adapter.conv_in.weight" not in tensors
    found = {}
    for key, value in tensors.items():
        name = key.removeprefix("adapter.")
        if light:
            name = name.replace(".resnets.", ".body.")
        elif name.startswith("body."):
            _, level, kind, *inner = name.split(".")
            block, inner = (int(inner[0]), inner[1:]) if kind == "resnets" else (0, [kind, *inner])
            name = ".".join(["body", str(2 * int(level) + block), *inner])
        found[name] = value.contiguous()
    return found
