"""ControlNets and T2I-Adapters on this disk: what a file or folder is, whether it fits a checkpoint, and its network.

A folder has diffusers' config.json and weights; a file has diffusers' keys or the original ones, and no config.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..checkpoint import transform
from ..checkpoint.detect import MODEL_INDEX, read_json, weight_files
from ..checkpoint.header import Header, read_header
from ..checkpoint.identify import described
from ..checkpoint.kinds import kind_of
from ..checkpoint.ldm_names import controlnet_places
from ..checkpoint.load import LoadedNetwork, StoredWeights, read_arrays, read_component
from ..errors import CheckpointError, RequestError, UnsupportedError
from ..models.controlnet import MODEL, UNION, ControlNet, ControlNetConfig, ControlNetModel, ControlNetUnionModel
from ..models.t2i_adapter import FULL, FULL_XL, T2IAdapter, T2IAdapterConfig
from ..models.unet_config import UNetConfig
from ..part_kinds import KINDS
from ..parts import BACKBONE
from .base import Checkpoint
from .control_shapes import adapter_places, adapter_values, context_width, controlnet_values, reads_sizes

ADAPTER = "T2IAdapter"
WANTED = "Give a ControlNet or a T2I-Adapter: a folder in diffusers' layout, or a .safetensors file."

_FAMILIES = {768: "SD 1.x", 1024: "SD 2.x", 1280: "the SDXL refiner", 2048: "SDXL"}
_PREFIX = "control_model."
_ORIGINAL = re.compile(r"(zero_convs|input_hint_block)\.0\.")
_ADAPTER = re.compile(r"(adapter\.)?body\.0\.(block1|in_conv|resnets\.0\.block1)\.weight")
_DIFFUSERS = "controlnet_cond_embedding.conv_in.weight"

# Other networks that steer by a picture.
_RELATIVES = (
    (re.compile(r"lora_controlnet$"), "a ControlNet-LoRA"),
    (re.compile(r"lllite_"), "a ControlNet-LLLite"),
    (re.compile(r"difference$"), "a ControlNet stored as differences from a model"),
    (
        re.compile(r"(controlnet_)?(transformer|single_transformer|joint_transformer|double)_blocks\."),
        "for SD 3 or Flux",
    ),
)


@dataclass(frozen=True)
class ControlSource:
    """What a control's file or folder is. `read` maps its weights under the module's names."""

    name: str
    config: ControlNetConfig | T2IAdapterConfig
    read: Callable[[], StoredWeights]

    @property
    def what(self) -> str:
        """What people call it."""
        return "ControlNet" if isinstance(self.config, ControlNetConfig) else "T2I-Adapter"


def read_control(name: str, path: Path, checkpoint: Checkpoint) -> ControlSource:
    """The control at a path, from its config or its header alone; `name` is what the request calls it.

    Raises RequestError where it was made for another family than the checkpoint's, CheckpointError for damaged files,
    UnsupportedError for anything that is no control.
    """
    unet = checkpoint.backbone
    if not isinstance(unet, UNetConfig):
        raise UnsupportedError(
            "This model's backbone is no UNet, which is what ControlNets and T2I-Adapters steer.", "Leave control out."
        )
    source = _in_folder(name, path) if path.is_dir() else _in_file(name, path, checkpoint, unet)
    if isinstance(source.config, ControlNetConfig):
        _check_controlnet(name, source.config, unet, checkpoint)
    elif not source.config.fits(unet, checkpoint.scale_factor):
        family = "SDXL" if source.config.kind == FULL_XL else "SD 1.x"
        raise _misfit(source.what, name, family, f"maps of {list(source.config.channels)} channels", unet)
    return source


def load_control(source: ControlSource, dtype: mx.Dtype, bits: int | None) -> ControlNet | T2IAdapter:
    """Its network with its weights, unevaluated. Raises CheckpointError where they do not fit its config."""
    config = source.config
    if isinstance(config, T2IAdapterConfig):
        return LoadedNetwork(lambda: T2IAdapter(config), source.read, dtype=dtype).module
    build = ControlNetModel if config.union is None else ControlNetUnionModel
    finish = transform.fuse(), transform.pack()
    loaded = LoadedNetwork(lambda: build(config), source.read, dtype=dtype, bits=bits, finish=finish)
    return ControlNet(loaded.module)


def family_of_unet(config: UNetConfig) -> str:
    """Which family a UNet is of, for people."""
    width = config.cross_attention_dim[-1]
    return _FAMILIES.get(width, f"a family whose prompts are {width} numbers wide")


def _in_folder(name: str, folder: Path) -> ControlSource:
    if not (folder / "config.json").exists():
        what = "a whole model" if (folder / MODEL_INDEX).exists() else "a folder without a config.json"
        raise UnsupportedError(f"{name} is {what}, no ControlNet or T2I-Adapter.", WANTED)
    values = read_json(folder / "config.json")
    kind = values.get("_class_name", MODEL)
    if kind == ADAPTER:
        return ControlSource(name, T2IAdapterConfig.from_dict(values), lambda: read_component(folder))
    if kind != MODEL and kind not in UNION:
        raise UnsupportedError(f"{name} is a {str(kind)[:60]}, which is no ControlNet or T2I-Adapter.", WANTED)
    keys = {key for path in weight_files(folder).paths for key in read_header(path).tensors}
    if "task_embedding" in keys:  # whatever its config calls it
        values = {**values, "_class_name": UNION[0]}
    return ControlSource(name, ControlNetConfig.from_dict(values), lambda: read_component(folder))


def _in_file(name: str, path: Path, checkpoint: Checkpoint, unet: UNetConfig) -> ControlSource:
    header = read_header(path)
    inside = {key: key.removeprefix(_PREFIX) for key in header.tensors if key.startswith(_PREFIX)}
    names = inside or {key: key for key in header.tensors}
    for pattern, what in _RELATIVES:
        if any(map(pattern.match, names.values())):
            raise UnsupportedError(f"{name} is {what}, which mlxdiff does not implement.", WANTED)
    if any(map(_ADAPTER.match, names.values())):
        return _adapter_in_file(name, path, header, unet, checkpoint.scale_factor)
    if any(map(_ORIGINAL.match, names.values())):
        places = controlnet_places(names.values(), _as_copied(unet))
        names = {key: places[inner] for key, inner in names.items()}
        if len(set(names.values())) < len(names):
            raise CheckpointError(f"{name} holds a weight under two names.", "Use a file with one of them.")
    elif _DIFFUSERS not in names.values():
        kind = kind_of(header)
        what = KINDS[kind].article if kind in KINDS else described(header.tensors)
        raise UnsupportedError(f"{name} is {what}, no ControlNet or T2I-Adapter.", WANTED)
    shapes = {place: header.tensors[key].shape for key, place in names.items()}
    _check_shapes(name, shapes, unet)
    values = controlnet_values(shapes, name, unet, checkpoint.source.config(BACKBONE))
    return ControlSource(name, ControlNetConfig.from_dict(values), lambda: _stored(path, header, names))


def _adapter_in_file(name: str, path: Path, header: Header, unet: UNetConfig, scale_factor: int) -> ControlSource:
    """A T2I-Adapter; a full one is SD's or SDXL's, which the UNet that it fits decides."""
    names = adapter_places(header.tensors)
    values = adapter_values({place: header.tensors[key].shape for key, place in names.items()}, name)
    kinds = [values["adapter_type"]] if "adapter_type" in values else [FULL, FULL_XL]
    configs = [T2IAdapterConfig.from_dict({**values, "adapter_type": kind}) for kind in kinds]
    likely = configs[-1 if values["downscale_factor"] >= 16 else 0]
    config = next((config for config in configs if config.fits(unet, scale_factor)), likely)
    return ControlSource(name, config, lambda: _stored(path, header, names))


def _stored(path: Path, header: Header, names: Mapping[str, str]) -> StoredWeights:
    """The arrays of a file, by what `names` says for their keys."""
    arrays = read_arrays(path, header, names)
    return StoredWeights({names[key]: array for key, array in arrays.items()}, str(path))


def _as_copied(unet: UNetConfig) -> dict[str, Any]:
    """What the table of original names needs of a UNet's config, spelled out."""
    if len(set(unet.layers)) != 1:
        raise UnsupportedError(
            "This model's UNet has levels of different depth, which the original layout of ControlNets cannot say.",
            "Give the ControlNet as a folder in diffusers' layout.",
        )
    return {
        "layers_per_block": unet.layers[0],
        "down_block_types": unet.down_block_types,
        "up_block_types": unet.up_block_types,
    }


def _check_shapes(name: str, shapes: Mapping[str, tuple[int, ...]], unet: UNetConfig) -> None:
    """Raises RequestError for a file of another family, before it is taken for a copy of this UNet."""
    width, first = context_width(shapes), shapes.get("conv_in.weight", ())
    sizes = reads_sizes(shapes)
    family = "SDXL" if sizes else _FAMILIES.get(width or 0, "another family")
    if (width is not None and width != unet.cross_attention_dim[-1]) or (sizes and unet.time_id_width is None):
        raise _misfit("ControlNet", name, family, f"a context {width} numbers wide", unet)
    if first and first[0] != unet.block_out_channels[0]:
        raise _misfit("ControlNet", name, family, f"{first[0]} channels at its top", unet)


def _check_controlnet(name: str, config: ControlNetConfig, unet: UNetConfig, checkpoint: Checkpoint) -> None:
    own = config.unet
    attends = any("CrossAttn" in kind for kind in (*own.down_block_types, str(own.mid_block_type)))
    has = None
    if attends and own.cross_attention_dim[-1] != unet.cross_attention_dim[-1]:
        has = f"a context {own.cross_attention_dim[-1]} numbers wide"
    elif own.block_out_channels != unet.block_out_channels or own.layers != unet.layers:
        has = f"{list(own.layers)} blocks of {list(own.block_out_channels)} channels"
    elif own.added_width is not None and own.added_width != unet.added_width:
        has = f"{own.added_width} numbers of sizes and pooled prompt"
    if has is not None:
        raise _misfit("ControlNet", name, family_of_unet(own), has, unet)
    if own.in_channels != checkpoint.vae.latent_channels:
        raise UnsupportedError(
            f"The ControlNet {name} takes latents of {own.in_channels} channels; the model's VAE makes"
            f" {checkpoint.vae.latent_channels}.",
            "Use a ControlNet for text-to-image models.",
        )
    if config.scale_factor != checkpoint.scale_factor:
        raise RequestError(
            f"The ControlNet {name} makes one cell of {config.scale_factor} pixels; the model's VAE makes one of"
            f" {checkpoint.scale_factor}.",
            "Use a ControlNet that was made for this model.",
        )


def _misfit(what: str, name: str, family: str, has: str, unet: UNetConfig) -> RequestError:
    model = family_of_unet(unet)
    if family != model and {family, model} <= {*_FAMILIES.values()}:
        return RequestError(
            f"The {what} {name} is for {family}, and the model is {model}.", f"Use a {what} that was made for {model}."
        )
    wants = f"{list(unet.layers)} blocks of {list(unet.block_out_channels)} channels"
    return RequestError(
        f"The {what} {name} has {has}; the model's UNet has {wants} and a context {unet.cross_attention_dim[-1]} wide.",
        f"Use a {what} that was made for this model.",
    )
