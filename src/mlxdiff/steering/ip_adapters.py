"""Which IP-Adapters a request asks for, with their image encoders: found on this disk and checked, no weight read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import hub
from ..checkpoint.detect import read_json
from ..checkpoint.header import read_header
from ..diffusion import guidance
from ..errors import ModelNotFoundError, RequestError
from ..models.backbone import BackboneConfig
from ..models.clip_vision import CLIPVisionConfig
from ..models.ip_adapter import PLAIN, IPAdapterConfig
from ..models.unet_attentions import Place, places
from ..models.unet_config import UNetConfig
from ..request.ip_adapters import IPAdapterSetting, covers
from .ip_adapter_files import is_ip_adapter, read_config

ENCODER = "image_encoder"
# In h94/IP-Adapter an adapter for SDXL may take the encoder of those for SD 1.5.
_BESIDE = (ENCODER, f"../{ENCODER}", f"../models/{ENCODER}", f"../sdxl_models/{ENCODER}")
# Folders of the authors' repository, each with an adapter, with which mlxdiff pulls the image encoder beside it.
_REPOSITORY = "h94/IP-Adapter"
_FOLDERS = {"models": "ip-adapter_sd15.safetensors", "sdxl_models": "ip-adapter_sdxl.safetensors"}
_FAMILIES = {(16, 768): "Stable Diffusion 1.x", (16, 1024): "Stable Diffusion 2.x", (70, 2048): "SDXL"}


@dataclass(frozen=True)
class Found:
    """An adapter that a request asks for: its file, and the image encoder that reads its pictures."""

    setting: IPAdapterSetting
    path: Path
    config: IPAdapterConfig
    encoder: Path
    vision: CLIPVisionConfig


def describe(path: Path) -> dict[str, Any] | None:
    """What an IP-Adapter's file is, for people; None for another file. Raises as ip_adapter_files.read_config."""
    if not is_ip_adapter(read_header(path)):
        return None
    config = read_config(path)
    return {
        "file": str(path),
        "kind": f"IP-Adapter, {config.kind}",
        "family": _FAMILIES.get((len(config.layers), config.width)),
        "cross-attentions": len(config.layers),
        "tokens of a picture": "one a patch" if config.tokens is None else config.tokens,
        "token width": config.width,
        "image encoder": f"gives {config.image_width} numbers {'a picture' if config.kind == PLAIN else 'a patch'}",
    }


def find(setting: IPAdapterSetting, backbone: BackboneConfig) -> Found:
    """The files of an adapter for a backbone.

    Raises RequestError where it was made for another family, ModelNotFoundError where there is no image encoder of its
    width, CheckpointError and UnsupportedError for files that are none.
    """
    path = hub.find_part(setting.ref, "ip_adapter")
    if path.is_dir():
        raise RequestError(
            f"{setting.ref} is a folder.", "Name one adapter in it, such as models/ip-adapter_sd15.safetensors."
        )
    config = read_config(path)
    if not isinstance(backbone, UNetConfig):
        raise RequestError("IP-Adapters are for UNets, and this model has none.", "Leave ip_adapter out.")
    attentions = places(backbone)
    _check_family(path, config, attentions)
    _check_scale(setting, attentions)
    encoder, vision = _encoder(setting, path, config)
    return Found(setting, path, config, encoder, vision)


def levels_of(setting: IPAdapterSetting, sigmas: Sequence[float]) -> tuple[float, float]:
    """The noise levels low < sigma <= high at which an adapter takes part, of a run with these. Raises RequestError."""
    start, end = setting.interval
    try:
        return guidance.interval_of(sigmas, start, end)
    except RequestError:
        raise RequestError(
            f"None of {len(sigmas) - 1} steps begins between {start:g} and {end:g} of the run, where the ip_adapter is"
            " to take part.",
            "Let it start earlier or end later.",
        ) from None


def _check_family(path: Path, config: IPAdapterConfig, attentions: list[Place]) -> None:
    widths = {place.source_width for place in attentions}
    if config.layers == tuple(place.width for place in attentions) and widths <= {config.width}:
        return
    own = _FAMILIES.get((len(config.layers), config.width), "another kind of model")
    raise RequestError(
        f"{path} is an IP-Adapter for {own}: it attends {len(config.layers)} times to tokens of {config.width} numbers,"
        f" this model's UNet {len(attentions)} times to {' and '.join(map(str, sorted(widths))) or 'none'}.",
        "Use one that was made for this model's family.",
    )


def _check_scale(setting: IPAdapterSetting, attentions: list[Place]) -> None:
    if not isinstance(setting.scale, tuple):
        return
    for place, _ in setting.scale:
        if not any(covers(place, attention.path) for attention in attentions):
            there = sorted({".".join(_short(attention.path)) for attention in attentions})
            raise RequestError(
                f"The ip_adapter's scale names {place}, where this UNet attends to no prompt.",
                f"It does at {', '.join(there)}.",
            )


def _short(path: str) -> list[str]:
    """`up_blocks.0.attentions.1.transformer_blocks.0.attn2` as a place: up, 0, 1."""
    block, number, _, attention, *_ = path.split(".")
    return ["mid"] if block == "mid_block" else [block.removesuffix("_blocks"), number, attention]


def _encoder(setting: IPAdapterSetting, path: Path, config: IPAdapterConfig) -> tuple[Path, CLIPVisionConfig]:
    """The folder of the image encoder that gives what the adapter reads: the one asked for, or one beside the file."""
    if setting.encoder is not None:
        folder = hub.find_image_encoder(setting.encoder)
        vision = _read_vision(folder)
        if vision is None:
            raise ModelNotFoundError(
                f"{setting.encoder} is no folder of an image encoder: it has no config.json.",
                "Give one such as models/image_encoder of h94/IP-Adapter.",
            )
        if _width(vision, config) != config.image_width:
            raise RequestError(
                f"The image encoder in {setting.encoder} gives {_width(vision, config)} numbers, and {path} reads"
                f" {config.image_width}.",
                _which(config),
            )
        return folder, vision
    seen = list(_beside(path))
    seen += [] if any(_width(vision, config) == config.image_width for _, vision in seen) else _pulled()
    for folder, vision in seen:
        if _width(vision, config) == config.image_width:
            return folder, vision
    widths = " and ".join(str(width) for width in sorted({_width(vision, config) for _, vision in seen}))
    problem = "there is none beside it" if not seen else f"what is there gives {widths}"
    raise ModelNotFoundError(
        f"{path} needs an image encoder that gives {config.image_width} numbers, and {problem}.",
        f"{_which(config)} Or name its folder with encoder=FOLDER.",
    )


def _beside(path: Path) -> Iterator[tuple[Path, CLIPVisionConfig]]:
    for name in _BESIDE:
        folder = path.parent / name
        vision = _read_vision(folder)
        if vision is not None:
            yield folder, vision


def _pulled() -> list[tuple[Path, CLIPVisionConfig]]:
    """The image encoders that came with adapters of the authors' repository, for adapters that were kept elsewhere."""
    found = []
    for folder in _FOLDERS:
        with suppress(ModelNotFoundError):
            path = hub.find_image_encoder(f"{_REPOSITORY}/{folder}/{ENCODER}")
            vision = _read_vision(path)
            found += [] if vision is None else [(path, vision)]
    return found


def _read_vision(folder: Path) -> CLIPVisionConfig | None:
    """The config of an image encoder's folder; None where there is none."""
    file = folder / "config.json"
    return CLIPVisionConfig.from_dict(read_json(file)) if file.is_file() else None


def _width(vision: CLIPVisionConfig, config: IPAdapterConfig) -> int:
    """How many numbers an encoder gives an adapter of that kind: of the picture, or of each patch."""
    return vision.projection_dim if config.kind == PLAIN else vision.hidden_size


def _which(config: IPAdapterConfig) -> str:
    known = {1024: "models", 1280: "sdxl_models"} if config.kind == PLAIN else {1280: "models", 1664: "sdxl_models"}
    folder = known.get(config.image_width)
    if folder is None:
        return "Get the folder of the encoder that the adapter was trained with."
    return f"One comes with an adapter: mlxdiff pull {_REPOSITORY}/{folder}/{_FOLDERS[folder]}"
