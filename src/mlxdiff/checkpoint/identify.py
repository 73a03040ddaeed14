"""What one .safetensors file is, from the names in its header: which model, under which prefixes, or what else.

Needs no MLX. The family is decided by what is complete, so that a key left over from something else decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from ..errors import CheckpointError, UnsupportedError

UNET = "model.diffusion_model."
VAE = "first_stage_model."
FIRST_CONV = f"{UNET}input_blocks.0.0.weight"
_VAE_CONV = "decoder.conv_in.weight"
_CONTEXT = re.compile(rf"{re.escape(UNET)}.*\.attn2\.to_k\.weight")

Shape = tuple[int, ...]

# What torch.compile, DataParallel and trainers put around a module. No name inside the networks has either word.
_INNER_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|module)\.")
_WRAPPERS = re.compile(r"((model|state_dict|net|pipe|pipeline)\.)*")


class EncoderNames(NamedTuple):
    """Where a text encoder is in a file, and whether its names are OpenCLIP's instead of transformers'."""

    prefix: str
    open_clip: bool


# Text encoders by component, the most telling architecture first.
ARCHITECTURES: dict[str, dict[str, EncoderNames]] = {
    "sdxl": {
        "text_encoder_2": EncoderNames("conditioner.embedders.1.model.", True),
        "text_encoder": EncoderNames("conditioner.embedders.0.transformer.", False),
    },
    "sdxl_refiner": {"text_encoder_2": EncoderNames("conditioner.embedders.0.model.", True)},
    "sd2": {"text_encoder": EncoderNames("cond_stage_model.model.", True)},
    "sd1": {"text_encoder": EncoderNames("cond_stage_model.transformer.", False)},
}

_NETWORKS = (UNET, VAE, *(encoder.prefix for encoders in ARCHITECTURES.values() for encoder in encoders.values()))

# What is in every text encoder, however deep it is. transformers 4 wrote text_model. before each.
_IN_OPEN_CLIP = ("token_embedding.weight", "transformer.resblocks.0.ln_1.weight", "ln_final.weight")
_IN_CLIP = ("embeddings.token_embedding.weight", "encoder.layers.0.layer_norm1.weight", "final_layer_norm.weight")

# What else a file may be, by a key that only that has; first match.
_OTHERS = (
    (r"(^|[._])lora[._]|\.hada_w1|\.lokr_w1", "a LoRA"),
    (r"^(control_model\.|controlnet_cond_embedding\.|input_hint_block\.)", "a ControlNet"),
    (r"(^|\.)(joint_blocks|double_blocks|double_stream_blocks)\.", "a model of another kind, such as SD 3 or Flux"),
    (r"^edm_mean$", "Playground 2.5, whose noise levels are another kind"),
    (r"^latents$", "a file of latents, which `mlxdiff decode` makes pictures of"),
    (r"^(emb_params|string_to_param|clip_g|clip_l)$", "a textual inversion"),
    (
        r"^((taesd_)?(en|de)coder\.)?(layers\.)?[1-4]\.conv\.[024]\.weight$",
        "a tiny VAE, which the option --vae takes",
    ),
    (
        r"(^|\.)(conv_first|body\.0|model\.1\.sub\.0\.RDB1\.conv1\.0)\.weight$",
        "an upscaler, which the option --upscaler takes",
    ),
)
_PIECES = (
    (r"(^|\.)input_blocks\.0\.0\.|(^|\.)time_embedding\.linear_1\.", "UNet"),
    (r"(^|\.)(encoder|decoder)\.conv_in\.", "VAE"),
    (r"(^|\.)(token_embedding|positional_embedding)(\.|$)", "text encoder"),
)
_DIFFUSERS = re.compile(r"^(unet|vae|text_encoder)\.")
_WANTED = "Give one of Stable Diffusion 1.x, 2.x or XL in the original layout, or a folder in diffusers' layout."


def unwrapped(keys: Iterable[str], path: Path) -> dict[str, str]:
    """Names without the prefixes of wrappers -> the keys that are stored.

    Where the whole model is under a prefix, what is not is left out. Raises CheckpointError where two keys are the same
    weight of a network.
    """
    names: dict[str, str] = {}
    twice: set[str] = set()
    for key in keys:
        name = _INNER_WRAPPERS.sub("", key)
        twice |= {name} & names.keys()
        names[name] = key
    head = _wrapper_of(names)
    for name in sorted(name[len(head) :] for name in twice if name.startswith(head)):
        if name.startswith(_NETWORKS):
            raise CheckpointError(f"{path} holds {name!r} under two names.", "Use a checkpoint with one of them.")
    return {name[len(head) :]: key for name, key in names.items() if name.startswith(head)}


def architecture_of(names: Mapping[str, Shape]) -> str | None:
    """Which of ARCHITECTURES the names and shapes are; None for none.

    Its text encoders are complete, and as wide together as the context that the UNet takes. A damaged model is what it
    has any key of.
    """
    if FIRST_CONV not in names or "edm_mean" in names:
        return None
    width = next((shape[1] for name, shape in names.items() if _CONTEXT.fullmatch(name) and len(shape) == 2), None)
    complete = [
        name
        for name, encoders in ARCHITECTURES.items()
        if all(_is_complete(encoder, names) for encoder in encoders.values())
    ]
    fitting = [name for name in complete if sum(_width(e, names) for e in ARCHITECTURES[name].values()) == width]
    begun = [
        name
        for name, encoders in ARCHITECTURES.items()
        if all(any(key.startswith(encoder.prefix) for key in names) for encoder in encoders.values())
    ]
    return next(iter([*fitting, *complete, *begun]), None)


def vae_prefix(names: Mapping[str, str]) -> str | None:
    """The prefix of the VAE among the names; None where there is none."""
    return next((prefix for prefix in (VAE, "vae.", "") if f"{prefix}{_VAE_CONV}" in names), None)


def not_a_model(path: Path, names: Mapping[str, str]) -> UnsupportedError:
    """What to say of a file that is no whole checkpoint."""
    for pattern, what in _OTHERS:
        if any(re.search(pattern, name) for name in names):
            return UnsupportedError(f"{path} is {what}, not a whole checkpoint.", _WANTED)
    found = [what for pattern, what in _PIECES if any(re.search(pattern, name) for name in names)]
    if not found:
        return UnsupportedError(f"{path} is no checkpoint that mlxdiff knows.", _WANTED)
    if len(found) == len(_PIECES):
        known = any(map(_DIFFUSERS.match, names))
        where = "under diffusers' names" if known else "under names that mlxdiff does not know"
        return UnsupportedError(f"{path} holds a whole model {where}, in one file.", _WANTED)
    if len(found) > 1:
        lacking = next(what for _, what in _PIECES if what not in found)
        return UnsupportedError(f"{path} holds a {' and a '.join(found)} and no {lacking}.", _WANTED)
    hint = " (which the option --vae takes)" if found == ["VAE"] else ""
    return UnsupportedError(f"{path} is only a {found[0]}{hint}, not a whole checkpoint.", _WANTED)


def described(names: Iterable[str]) -> str:
    """What a file with these names is, for people: "a LoRA", "a whole checkpoint", "a VAE"."""
    names = list(names)
    if FIRST_CONV in names:
        return "a whole checkpoint"
    for pattern, what in _OTHERS:
        if any(re.search(pattern, name) for name in names):
            return what
    found = [f"a {what}" for pattern, what in _PIECES if any(re.search(pattern, name) for name in names)]
    return " and ".join(found) if found else "something else"


def _wrapper_of(names: Iterable[str]) -> str:
    """The prefix that a wrapper put before a whole model, or before a VAE where there is no UNet; "" for none."""
    for ending, own in ((FIRST_CONV, ("",)), (_VAE_CONV, (VAE, "vae.", ""))):
        for name in sorted((name for name in names if name.endswith(ending)), key=len):
            head = name.removesuffix(ending)
            stem = head.removesuffix(next(prefix for prefix in own if head.endswith(prefix)))
            if _WRAPPERS.fullmatch(stem):
                return stem
    return ""


def _is_complete(encoder: EncoderNames, names: Mapping[str, Shape]) -> bool:
    inside = _IN_OPEN_CLIP if encoder.open_clip else _IN_CLIP
    return any(all(f"{head}{name}" in names for name in inside) for head in _heads(encoder))


def _width(encoder: EncoderNames, names: Mapping[str, Shape]) -> int:
    """How wide the states of a complete text encoder are."""
    embedding = (_IN_OPEN_CLIP if encoder.open_clip else _IN_CLIP)[0]
    shape = next(names[f"{head}{embedding}"] for head in _heads(encoder) if f"{head}{embedding}" in names)
    return shape[-1] if shape else 0


def _heads(encoder: EncoderNames) -> tuple[str, ...]:
    return (encoder.prefix,) if encoder.open_clip else (encoder.prefix, f"{encoder.prefix}text_model.")
