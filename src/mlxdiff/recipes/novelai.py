"""NovelAI's metadata into a recipe: `Description` is the prompt, `Comment` is JSON, `Source` the model with a hash."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from . import names
from .a1111 import choose
from .recipe import FindModel, Gathering, Recipe, leave_rest, object_of, take_all

NAMES = ("Title", "Description", "Source", "Comment")
_TABLE = {
    "steps": "steps",
    "scale": "guidance_scale",
    "seed": "seed",
    "uc": "negative_prompt",
    "width": "width",
    "height": "height",
    "cfg_rescale": "guidance_rescale",
}
_ABSENT: dict[str, Any] = {
    "n_samples": 1,
    "request_type": ...,
    "signed_hash": ...,
    "version": ...,
    "uncond_scale": 1.0,
    "controlnet_strength": 1.0,
    "noise": 0.0,
    "legacy_v3_extend": ...,
    "ucPreset": ...,
    "qualityToggle": ...,
    "params_version": ...,
    "reference_information_extracted": 1.0,
    "reference_strength": 0.6,
    "lora_unet_weights": None,
    "stream": ...,
    "add_original_image": ...,
}


def read(texts: Mapping[str, str], find_model: FindModel | None) -> Recipe | None:
    """The recipe of a Comment as NovelAI writes it, or None."""
    values = object_of(texts.get("Comment"))
    if values is None or "sampler" not in values or not ({"uc", "scale"} & values.keys()):
        return None
    made = Gathering("novelai")
    prompt = values.pop("prompt", None)
    prompt = texts.get("Description", "") if not isinstance(prompt, str) else prompt
    made.take("prompt", prompt, "Description")
    if re.search(r"[{}]", prompt):
        made.leave("weights in { } and [ ]")
    rest = take_all(made, values, _TABLE)
    written, planned = rest.pop("sampler"), rest.pop("noise_schedule", "")
    if isinstance(written, str):
        sampler, schedule = names.sampler_and_schedule(written, planned if isinstance(planned, str) else "")
        choose(made, "sampler", sampler, "sampler", written)
        choose(made, "schedule", schedule, "noise_schedule", f"{planned}")
    strength = rest.pop("strength", None)
    if any(isinstance(rest.get(key), str) for key in ("image", "init_image")) or rest.get("request_type") == "Img2Img":
        made.take("strength", strength, "strength")
    for name in ("v4_prompt", "v4_negative_prompt"):
        caption = rest.pop(name, None)
        caption = caption.get("caption") if isinstance(caption, dict) else None
        if isinstance(caption, dict) and caption.get("char_captions"):
            made.leave(name, caption["char_captions"])
    source = re.fullmatch(r"(.*?)(?:\s+([0-9A-F]{6,64}))?", texts.get("Source", "").strip(), re.DOTALL)
    if source is not None:
        made.model(source[1], find_model, source[2] or "")
    leave_rest(made, rest, _ABSENT)
    return made.recipe()
