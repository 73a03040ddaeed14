"""One .safetensors file as people share it: which published model its keys say it is, and its weights by component.

The original layout keeps every network in one file, each under a prefix, and no config: those of the published models
are in assets/single_file. Names tell the architecture; shapes are checked when a network is filled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
from safetensors import safe_open

from ..errors import CheckpointError, MlxdiffError, UnsupportedError
from . import ldm_names
from .detect import read_json
from .header import FLOATS, INTEGERS, Header, read_header
from .load import check_integers, map_tensors
from .rename import is_ignored

PUBLISHED = Path(__file__).parents[1] / "assets" / "single_file"

UNET = "model.diffusion_model."
VAE = "first_stage_model."
FIRST_CONV = f"{UNET}input_blocks.0.0.weight"
V_PREDICTION, EPSILON = "v_prediction", "epsilon"

# What the UNet takes tells these apart; the suffix is the pipeline's.
_EDITORS = {9: "InpaintPipeline", 8: "InstructPix2PixPipeline"}

# The step at which Stability AI's 2.0-base and 2.1 (768 pixels) were saved, where a file still has it.
_STEPS = {875_000: EPSILON, 110_000: V_PREDICTION}
_MODEL_SPECS = {"stable-diffusion-v2-768-v": V_PREDICTION, "stable-diffusion-v2-512": EPSILON}

# Outside the networks: the averaged copy of the weights, the schedule's buffers and counters (names without a dot),
# CLIP's temperature and its half for pictures, and what only training uses.
_IGNORED = re.compile(
    r"model_ema\..*|\w+|denoiser\..*|first_stage_model\.(loss|model_ema)\..*"
    r"|(cond_stage_model|conditioner\.embedders\.\d)\.(model|transformer)\."
    r"(logit_scale|attn_mask|(visual|vision_model|visual_projection|text_projection)\..*)"
    r"|(cond_stage_model|conditioner\.embedders\.\d)\.logit_scale"
)


class Encoder(NamedTuple):
    """Where a text encoder is in a file, and whether its names are OpenCLIP's instead of transformers'."""

    prefix: str
    open_clip: bool


# Text encoders by component, the most telling first.
_ARCHITECTURES: dict[str, dict[str, Encoder]] = {
    "sdxl": {
        "text_encoder_2": Encoder("conditioner.embedders.1.model.", True),
        "text_encoder": Encoder("conditioner.embedders.0.transformer.", False),
    },
    "sdxl_refiner": {"text_encoder_2": Encoder("conditioner.embedders.0.model.", True)},
    "sd2": {"text_encoder": Encoder("cond_stage_model.model.", True)},
    "sd1": {"text_encoder": Encoder("cond_stage_model.transformer.", False)},
}

# What else a file may be, by a key that only that has; first match.
_OTHERS = (
    (r"(^|[._])lora[._]|\.hada_w1|\.lokr_w1", "a LoRA"),
    (r"^(control_model\.|controlnet_cond_embedding\.|input_hint_block\.)", "a ControlNet"),
    (r"(^|\.)(joint_blocks|double_blocks|double_stream_blocks)\.", "a model of another kind, such as SD 3 or Flux"),
    (r"^edm_mean$", "Playground 2.5, whose noise levels are another kind"),
    (r"^latents$", "a file of latents, which `mlxdiff decode` makes pictures of"),
    (r"^(emb_params|string_to_param|clip_g|clip_l)$", "a textual inversion"),
    (rf"^({re.escape(UNET)})?input_blocks\.0\.0\.|^time_embedding\.linear_1\.", "only a UNet"),
    (r"^(first_stage_model\.|vae\.)?(encoder|decoder)\.conv_in\.", "only a VAE (which the option --vae takes)"),
    (r"(^|\.)(token_embedding|positional_embedding)(\.|$)", "only a text encoder"),
)


@dataclass(frozen=True)
class SingleFile:
    """A checkpoint in one file.

    configs   what model_index.json and each component's config would say, by component
    encoders  where its text encoders are
    has_vae   whether it holds a VAE; some are shared without
    assumed   whether `prediction_type` is a guess, since nothing in the file says it
    """

    path: Path
    configs: Mapping[str, Mapping[str, Any]]
    encoders: Mapping[str, Encoder]
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
        header = read_header(self.path)
        check_integers(self.path, Header(_networks(header), header.metadata), ())
        tensors = map_tensors(self.path)
        return {
            key[len(prefix) :]: tensors[key]
            for key, info in header.tensors.items()
            if key.startswith(prefix) and info.dtype in FLOATS and not _IGNORED.fullmatch(key)
        }


def read_single_file(path: Path, prediction_type: str | None = None) -> SingleFile:
    """What a file in the original layout is, from its header alone; `prediction_type` overrules what it says.

    Raises UnsupportedError, which says what the file is, for one that is no whole model of SD 1.x, 2.x or XL; and
    CheckpointError for a damaged one.
    """
    header = read_header(path)
    architecture = _architecture(header)
    if architecture is None or FIRST_CONV not in header.tensors or "edm_mean" in header.tensors:
        raise _not_a_model(path, header)
    encoders = _ARCHITECTURES[architecture]
    known = (UNET, VAE, *(encoder.prefix for encoder in encoders.values()))
    strange = sorted(key for key in header.tensors if not key.startswith(known) and not _is_ignored(key))
    if strange:
        raise CheckpointError(
            f"{path} holds {strange[0]!r}, which no {architecture.upper()} checkpoint has.",
            "Use the file as its author published it, or the same model in the diffusers layout.",
        )
    shape = header.tensors[FIRST_CONV].shape
    channels = shape[1] if len(shape) == 4 else 4
    said = _said_prediction(path, header) if prediction_type is None else prediction_type
    assumed = said is None and architecture == "sd2" and channels == 4
    if said is None:
        said = V_PREDICTION if assumed else EPSILON
    configs = _configs("sd2_base" if architecture == "sd2" and said == EPSILON else architecture)
    configs["unet"] = {**configs["unet"], "in_channels": channels}
    configs["scheduler"] = {**configs["scheduler"], "prediction_type": said, **_zero_snr(header)}
    if channels in _EDITORS:
        class_name = configs["model_index"]["_class_name"].removesuffix("Pipeline") + _EDITORS[channels]
        configs["model_index"] = {**configs["model_index"], "_class_name": class_name}
    has_vae = any(key.startswith(VAE) for key in header.tensors)
    return SingleFile(path, configs, encoders, has_vae, assumed)


def read_vae_file(path: Path, levels: int) -> dict[str, mx.array]:
    """The lazy arrays of a VAE in one file, in the diffusers or the original layout, under diffusers' names.

    `levels` is the number of block_out_channels of the VAE that it replaces. A whole model's VAE is taken out of it.
    Raises UnsupportedError for a file that holds none.
    """
    header = read_header(path)
    prefix = next((p for p in (VAE, "vae.", "") if f"{p}decoder.conv_in.weight" in header.tensors), None)
    if prefix is None:
        raise UnsupportedError(f"{path} holds no VAE.", "Give a VAE: a component folder, or a .safetensors file.")
    kept = {key: info for key, info in header.tensors.items() if key.startswith(prefix) and not _is_loss(key)}
    check_integers(path, Header(kept, header.metadata), ())
    tensors = map_tensors(path)
    found = {key[len(prefix) :]: tensors[key] for key, info in kept.items() if info.dtype in FLOATS}
    return ldm_names.vae_weights(found, levels)


def _architecture(header: Header) -> str | None:
    for name, encoders in _ARCHITECTURES.items():
        if all(any(key.startswith(encoder.prefix) for key in header.tensors) for encoder in encoders.values()):
            return name
    return None


def _configs(name: str) -> dict[str, dict[str, Any]]:
    return read_json(PUBLISHED / f"{name}.json")


def _said_prediction(path: Path, header: Header) -> str | None:
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
    if step is None or step.dtype not in INTEGERS or step.shape not in ((), (1,)):
        return None
    with safe_open(path, framework="numpy") as file:
        return _STEPS.get(int(file.get_tensor("global_step").reshape(())))


def _zero_snr(header: Header) -> dict[str, Any]:
    """A schedule that ends in pure noise (Lin et al. 2024), which needs trailing spacing."""
    return {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if "ztsnr" in header.tensors else {}


def _networks(header: Header) -> dict[str, Any]:
    return {key: info for key, info in header.tensors.items() if not _is_ignored(key)}


def _is_ignored(key: str) -> bool:
    return _IGNORED.fullmatch(key) is not None or is_ignored(key)


def _is_loss(key: str) -> bool:
    return re.match(rf"({re.escape(VAE)}|vae\.)?(loss|model_ema)\.", key) is not None


def _not_a_model(path: Path, header: Header) -> MlxdiffError:
    for pattern, what in _OTHERS:
        if any(re.search(pattern, key) for key in header.tensors):
            return UnsupportedError(
                f"{path} is {what}, not a whole checkpoint.",
                "Give one of Stable Diffusion 1.x, 2.x or XL in the original layout, or a folder in diffusers' layout.",
            )
    return UnsupportedError(
        f"{path} is no checkpoint that mlxdiff knows.",
        "Give one of Stable Diffusion 1.x, 2.x or XL in the original layout, or a folder in diffusers' layout.",
    )
