"""The kinds of parts that a picture is made with besides its model, one row each. Names only: asks no disk, no hub."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODEL = "model"


@dataclass(frozen=True)
class Kind:
    """One kind of part.

    noun          what people call it
    option        how `generate` takes it; {} stands for its reference
    variable      the environment variable that lists folders of such files
    classes       the diffusers classes of a folder that is one
    file          what diffusers calls its only file
    is_folder     whether it is never a single file
    is_in_models  whether a model has one, which can be used with another model
    has_alias     whether its file may say another name of it
    pickled_at    under which keys its trainers keep it among other things in a pickle
    """

    noun: str
    option: str
    variable: str
    classes: tuple[str, ...] = ()
    file: str | None = None
    is_folder: bool = False
    is_in_models: bool = False
    has_alias: bool = False
    pickled_at: tuple[str, ...] = ()

    @property
    def article(self) -> str:
        return f"an {self.noun}" if self.noun[0] in "aeiouAEIOU" else f"a {self.noun}"

    def usage(self, reference: str) -> str:
        """The option that takes the part, as it is typed."""
        return self.option.format(f'"{reference}"' if " " in reference else reference)


KINDS = {
    "lora": Kind("LoRA", "--lora {}", "MLXDIFF_LORAS", file="pytorch_lora_weights.safetensors", has_alias=True),
    "embedding": Kind("embedding", "--embedding {}", "MLXDIFF_EMBEDDINGS", file="learned_embeds.safetensors"),
    "vae": Kind("VAE", "--vae {}", "MLXDIFF_VAES", ("AutoencoderKL", "AutoencoderTiny"), is_in_models=True),
    "control": Kind(
        "ControlNet",
        "--control {}=IMAGE",
        "MLXDIFF_CONTROLS",
        ("ControlNetModel", "ControlNetUnionModel", "ControlNetModel_Union", "T2IAdapter"),
    ),
    "ip_adapter": Kind("IP-Adapter", "--ip-adapter {}=IMAGE", "MLXDIFF_IP_ADAPTERS"),
    "image_encoder": Kind(
        "image encoder",
        "--ip-adapter FILE=IMAGE,encoder={}",
        "MLXDIFF_IMAGE_ENCODERS",
        ("CLIPVisionModelWithProjection",),
        is_folder=True,
    ),
    "upscaler": Kind("upscaler", "--upscaler {}", "MLXDIFF_UPSCALERS", pickled_at=("params_ema", "params")),
}


def class_of(config: Mapping[str, Any]) -> str | None:
    """The class that a component's config.json names; None where it names none."""
    listed = config.get("architectures")
    name = config.get("_class_name", listed[0] if isinstance(listed, list) and len(listed) == 1 else None)
    return name if isinstance(name, str) else None


def kind_of_config(config: Mapping[str, Any]) -> str | None:
    """Which kind of part a component's config.json describes, as diffusers or transformers wrote it; None for another
    class or none."""
    class_name = class_of(config)
    return next((name for name, kind in KINDS.items() if class_name in kind.classes), None)


def noun_of(kind: str | None) -> str:
    """What people call a kind, of a model too; of None, nothing is known."""
    if kind is None:
        return "unknown"
    return KINDS[kind].noun if kind in KINDS else kind


FILES = tuple(name for name, kind in KINDS.items() if not kind.is_folder)
"""The kinds that may be a single file."""


def folders_in_environment(kind: str) -> list[Path]:
    """The folders that the kind's variable lists."""
    listed = os.environ.get(KINDS[kind].variable, "")
    return [Path(folder).expanduser() for folder in listed.split(os.pathsep) if folder.strip()]
