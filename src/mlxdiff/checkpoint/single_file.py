"""One .safetensors file as people share it: which published model its keys say it is, and its weights by component.

The original layout keeps every network in one file, each under a prefix, and no config: those of the published models
are in assets/single_file. Names tell the architecture; shapes are checked when a network is filled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from safetensors import safe_open

from ..errors import UnsupportedError
from . import ldm_names
from .detect import read_json
from .header import INTEGERS, Header, read_header
from .identify import (
    ARCHITECTURES,
    FIRST_CONV,
    UNET,
    VAE,
    EncoderNames,
    architecture_of,
    not_a_model,
    unwrapped,
    vae_prefix,
)
from .load import read_arrays

PUBLISHED = Path(__file__).parents[1] / "assets" / "single_file"

V_PREDICTION, EPSILON = "v_prediction", "epsilon"

# What the UNet takes tells these apart; the suffix is the pipeline's.
_EDITORS = {9: "InpaintPipeline", 8: "InstructPix2PixPipeline", 5: "Depth2ImgPipeline"}

# The step at which Stability AI's 2.0-base and 2.1 (768 pixels) were saved, where a file still has it.
_STEPS = {875_000: EPSILON, 110_000: V_PREDICTION}
_MODEL_SPECS = {"stable-diffusion-v2-768-v": V_PREDICTION, "stable-diffusion-v2-512": EPSILON}

# Inside the networks' prefixes and no part of them: CLIP's temperature and its half for pictures, and training's.
_IGNORED = re.compile(
    r"first_stage_model\.(loss|model_ema)\..*"
    r"|(cond_stage_model|conditioner\.embedders\.\d)\.(model|transformer)\."
    r"(logit_scale|attn_mask|(visual|vision_model|visual_projection|text_projection)\..*)"
)


@dataclass(frozen=True)
class SingleFile:
    """A checkpoint in one file.

    configs   what model_index.json and each component's config would say, by component
    encoders  where its text encoders are
    names     names without wrappers' prefixes -> the keys that are stored
    has_vae   whether it holds a VAE; some are shared without
    assumed   whether `prediction_type` is a guess, since nothing in the file says it
    """

    path: Path
    configs: Mapping[str, Mapping[str, Any]]
    encoders: Mapping[str, EncoderNames]
    names: Mapping[str, str]
    has_vae: bool
    assumed: bool

    def weights(self, component: str) -> dict[str, mx.array]:
        """The lazy arrays of one component, under its module's names. Raises CheckpointError where there are none."""
        if component == "unet":
            return ldm_names.unet_weights(self._under(UNET), self.configs["unet"])
        if component == "vae":
            return ldm_names.vae_weights(self._under(VAE), len(self.configs["vae"]["block_out_channels"]))
        encoder = self.encoders[component]
        found = self._under(encoder.prefix)
        if not encoder.open_clip:
            return found
        layers = self.configs[component]["num_hidden_layers"]
        projects = component == "text_encoder_2"
        return ldm_names.open_clip_weights(found, layers=layers, projects=projects, source=str(self.path))

    def _under(self, prefix: str) -> dict[str, mx.array]:
        inside = {
            name: key for name, key in self.names.items() if name.startswith(prefix) and not _IGNORED.fullmatch(name)
        }
        arrays = read_arrays(self.path, read_header(self.path), inside.values())
        return {name[len(prefix) :]: arrays[key] for name, key in inside.items() if key in arrays}


def read_single_file(path: Path, prediction_type: str | None = None) -> SingleFile:
    """What a file in the original layout is, from its header alone; `prediction_type` overrules what it says.

    What is outside the networks is ignored; inside them loading is strict. Raises UnsupportedError, which says what the
    file is, for one that is no whole model of SD 1.x, 2.x or XL; and CheckpointError for a damaged one.
    """
    header = read_header(path)
    names = unwrapped(header.tensors, path)
    architecture = architecture_of({name: header.tensors[key].shape for name, key in names.items()})
    if architecture is None:
        raise not_a_model(path, names)
    shape = header.tensors[names[FIRST_CONV]].shape
    step = names.get("global_step")
    header = Header({name: header.tensors[key] for name, key in names.items()}, header.metadata)
    channels = shape[1] if len(shape) == 4 else 4
    said = _said_prediction(path, header, step) if prediction_type is None else prediction_type
    assumed = said is None and architecture == "sd2" and channels == 4
    if said is None:
        said = V_PREDICTION if assumed else EPSILON
    configs = _configs("sd2_base" if architecture == "sd2" and said == EPSILON else architecture)
    configs["unet"] = {**configs["unet"], "in_channels": channels}
    configs["scheduler"] = {**configs["scheduler"], "prediction_type": said, **_zero_snr(header)}
    if channels in _EDITORS:
        class_name = configs["model_index"]["_class_name"].removesuffix("Pipeline") + _EDITORS[channels]
        configs["model_index"] = {**configs["model_index"], "_class_name": class_name}
    has_vae = any(name.startswith(VAE) for name in names)
    return SingleFile(path, configs, ARCHITECTURES[architecture], names, has_vae, assumed)


def read_vae_file(path: Path, levels: int) -> dict[str, mx.array]:
    """The lazy arrays of a VAE in one file, in the diffusers or the original layout, under diffusers' names.

    `levels` is the number of block_out_channels of the VAE that it replaces. A whole model's VAE is taken out of it.
    Raises UnsupportedError for a file that holds none.
    """
    header = read_header(path)
    names = unwrapped(header.tensors, path)
    prefix = vae_prefix(names)
    if prefix is None:
        raise UnsupportedError(f"{path} holds no VAE.", "Give a VAE: a component folder, or a .safetensors file.")
    inside = {name: key for name, key in names.items() if name.startswith(prefix) and not _is_loss(name)}
    arrays = read_arrays(path, header, inside.values())
    return ldm_names.vae_weights({n[len(prefix) :]: arrays[key] for n, key in inside.items() if key in arrays}, levels)


def _configs(name: str) -> dict[str, dict[str, Any]]:
    return read_json(PUBLISHED / f"{name}.json")


def _said_prediction(path: Path, header: Header, step_key: str | None) -> str | None:
    """What the file says of its prediction type: a marker among its keys, its trainer's metadata, or its last step."""
    if "v_pred" in header.tensors:
        return V_PREDICTION
    said = header.metadata.get("modelspec.prediction_type", "").lower()
    if said in ("v", V_PREDICTION):
        return V_PREDICTION
    if said == EPSILON:
        return EPSILON
    architecture = header.metadata.get("modelspec.architecture", "")
    if architecture in _MODEL_SPECS:
        return _MODEL_SPECS[architecture]
    step = header.tensors.get("global_step")
    if step is None or step_key is None or step.dtype not in INTEGERS or step.shape not in ((), (1,)):
        return None
    with safe_open(path, framework="numpy") as file:
        return _STEPS.get(int(file.get_tensor(step_key).reshape(())))


def _zero_snr(header: Header) -> dict[str, Any]:
    """A schedule that ends in pure noise (Lin et al. 2024), which needs trailing spacing."""
    return {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if "ztsnr" in header.tensors else {}


def _is_loss(name: str) -> bool:
    return re.match(rf"({re.escape(VAE)}|vae\.)?(loss|model_ema)\.", name) is not None
