"""A picture of every program that is read, as it writes them: a cat of 512x768 pixels, 20 steps, seed 5.

The same for all, so that one expression chooses them all; and a LoRA, where a program writes any.
"""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image, PngImagePlugin
from recipes_graphs import comfyui

from mlxdiff.containers import exif
from mlxdiff.metadata import picture_text
from mlxdiff.request import Request

A1111 = (
    "a cat <lora:ink:0.5>\nNegative prompt: dogs\nSteps: 20, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7,"
    " Seed: 5, Size: 512x768, Model: v1-5, Version: v1.10.1"
)
_SDCPP = (
    "a cat&#10;Negative prompt: dogs&#10;Steps: 20, CFG scale: 7.0, Seed: 5, Size: 512x768, Model: m.safetensors,"
    " RNG: cuda, Sampler: euler a, Version: stable-diffusion.cpp"
)
_DRAW_THINGS = {
    "c": "a cat",
    "uc": "dogs",
    "model": "sd_v1.5.ckpt",
    "sampler": "Euler A",
    "scale": 7,
    "seed": 5,
    "size": "512x768",
    "steps": 20,
    "lora": [{"model": "ink"}],
}
_SWARM = {
    "prompt": "a cat",
    "negativeprompt": "dogs",
    "model": "xl",
    "images": 1,
    "seed": 5,
    "steps": 20,
    "cfgscale": 7,
    "width": 512,
    "height": 768,
    "sampler": "euler",
    "loras": ["ink"],
    "loraweights": ["0.5"],
    "swarm_version": "0.9.5",
}
_FOOOCUS = {
    "prompt": "a cat",
    "negative_prompt": "dogs",
    "base_model": "xl",
    "guidance_scale": 4.0,
    "seed": "5",
    "steps": 20,
    "resolution": "(512, 768)",
    "sampler": "euler",
    "loras": [["ink", 0.5, "48"]],
    "metadata_scheme": "fooocus",
    "version": "Fooocus v2.5.5",
}
_CIVITAI = {
    "prompt": "a cat",
    "negativePrompt": "dogs",
    "cfgScale": 7,
    "steps": 20,
    "sampler": "Euler a",
    "seed": 5,
    "Size": "512x768",
    "Model": "v1-5",
    "resources": [{"type": "lora", "name": "ink", "weight": 0.6}],
}
_NOVELAI = {
    "prompt": "a cat",
    "uc": "dogs",
    "steps": 20,
    "height": 768,
    "width": 512,
    "scale": 5.0,
    "seed": 5,
    "n_samples": 1,
    "sampler": "k_euler",
    "request_type": "PromptGenerateRequest",
    "signed_hash": "abc",
}
_INVOKE = '"a cat [dogs]" -s 20 -S 5 -W 512 -H 768 -C 7.5 -A k_euler_a'
OWN = Request("a cat", negative_prompt="dogs", steps=20, seed=5, width=512, height=768, sampler="euler", model="emoji")


def write_all(folder: Path) -> dict[str, Path]:
    """The pictures by the name of their program."""
    found = {
        "mlxdiff": _png(folder / "mlxdiff.png", **picture_text(OWN)),
        "a1111": _png(folder / "a1111.png", parameters=A1111),
        "forge": _png(folder / "forge.png", parameters=A1111.replace("v1.10.1", "f2.0.1")),
        "comfyui": _png(folder / "comfyui.png", prompt=json.dumps(comfyui()), workflow="{}"),
        "invokeai": _png(folder / "invokeai.png", Dream=_INVOKE),
        "novelai": _png(
            folder / "novelai.png", Software="NovelAI", Source="Stable Diffusion XL", Comment=json.dumps(_NOVELAI)
        ),
        "fooocus": _png(folder / "fooocus.png", parameters=json.dumps(_FOOOCUS), fooocus_scheme="fooocus"),
        "civitai": _png(folder / "civitai.png", parameters=json.dumps(_CIVITAI)),
        "swarmui": folder / "swarmui.jpg",
        "sd.cpp": folder / "sdcpp.webp",
        "drawthings": folder / "drawthings.webp",
    }
    text = json.dumps({"sui_image_params": _SWARM})
    Image.new("RGB", (8, 8)).save(found["swarmui"], exif=exif.write({"parameters": text}))
    _xmp(found["sd.cpp"], f'<rdf:Description xmlns:sdcpp="urn:x" sdcpp:parameters="{_SDCPP}"/>')
    escaped = json.dumps(_DRAW_THINGS).replace('"', "&quot;")
    _xmp(found["drawthings"], f"<exif:UserComment><rdf:Alt><rdf:li>{escaped}</rdf:li></rdf:Alt></exif:UserComment>")
    return found


def _png(path: Path, **texts: str) -> Path:
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_itxt(name, text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


def _xmp(path: Path, inside: str) -> None:
    Image.new("RGB", (8, 8)).save(path, xmp=f"<x:xmpmeta>{inside}</x:xmpmeta>".encode())
