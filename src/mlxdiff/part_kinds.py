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

    noun      what people call it
    option    how `generate` takes it; {} stands for its reference
    variable  the environment variable that lists folders of such files
    classes   the diffusers classes of a folder that is one
    file      what diffusers calls its only file
    """

    noun: str
    option: str
    variable: str
    classes: tuple[str, ...] = ()
    file: str | None = None

    @property
    def article(self) -> str:
        return f"an {self.noun}" if self.noun[0] in "aeiouAEIOU" else f"a {self.noun}"

    def usage(self, reference: str) -> str:
        """The option that takes the part, as it is typed."""
        return self.option.format(f'"{reference}"' if " " in reference else reference)


KINDS = {
    "lora": Kind("LoRA", "--lora {}", "MLXDIFF_LORAS", file="pytorch_lora_weights.safetensors"),
    "embedding": Kind("embedding", "--embedding {}", "MLXDIFF_EMBEDDINGS", file="learned_embeds.safetensors"),
    "vae": Kind("VAE", "--vae {}", "MLXDIFF_VAES", ("AutoencoderKL", "AutoencoderTiny")),
    "control": Kind("ControlNet", "--control {}=IMAGE", "MLXDIFF_CONTROLS", ("ControlNetModel", "T2IAdapter")),
    "ip_adapter": Kind("IP-Adapter", "--ip-adapter {}=IMAGE", "MLXDIFF_IP_ADAPTERS"),
    "upscaler": Kind("upscaler", "--upscaler {}", "MLXDIFF_UPSCALERS"),
}


def kind_of_config(config: Mapping[str, Any]) -> str | None:
    """Which kind of part a component's config.json describes; None for another class or none."""
    class_name = config.get("_class_name")
    return next((name for name, kind in KINDS.items() if class_name in kind.classes), None)


def noun_of(kind: str | None) -> str:
    """What people call a kind, of a model too; of None, nothing is known."""
    if kind is None:
        return "unknown"
    return KINDS[kind].noun if kind in KINDS else kind


def folders_in_environment(kind: str) -> list[Path]:
    """The folders that the kind's variable lists."""
    listed = os.environ.get(KINDS[kind].variable, "")
    return [Path(folder).expanduser() for folder in listed.split(os.pathsep) if folder.strip()]
