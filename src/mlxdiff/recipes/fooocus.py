"""Fooocus' metadata into a recipe: JSON in `parameters`, or in `Comment` before version 2.2."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from . import names
from .a1111 import choose
from .recipe import FindModel, Gathering, Recipe, leave_rest, object_of, take_all

_TABLE = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "steps": "steps",
    "guidance_scale": "guidance_scale",
    "seed": "seed",
    "clip_skip": "clip_skip",
}
_ABSENT: dict[str, Any] = {
    "version": ...,
    "metadata_scheme": ...,
    "created_by": ...,
    "base_model_hash": ...,
    "refiner_model": "None",
    "refiner_model_hash": ...,
    "full_prompt": ...,  # the prompt with its styles, which are named
    "full_negative_prompt": ...,
    "vae": "Default (model)",
}


def read(texts: Mapping[str, str], find_model: FindModel | None) -> Recipe | None:
    """The recipe of Fooocus' JSON, or None."""
    for name in ("parameters", "Comment"):
        values = object_of(texts.get(name))
        values = {key.lower().replace(" ", "_"): value for key, value in (values or {}).items()}
        if "prompt" in values and {"base_model", "performance", "sharpness"} & values.keys():
            return _recipe(values, find_model)
    return None


def _recipe(values: dict[str, Any], find_model: FindModel | None) -> Recipe:
    made = Gathering("fooocus")
    rest = take_all(made, values, _TABLE)
    size = re.fullmatch(r"\(?\s*(\d{1,7})\s*[,x×]\s*(\d{1,7})\s*\)?", str(rest.get("resolution", "")))
    if size is not None:
        del rest["resolution"]
        made.take("width", size[1], "resolution")
        made.take("height", size[2], "resolution")
    written, planned = (str(rest.pop(name, "")) for name in ("sampler", "scheduler"))
    sampler, schedule = names.sampler_and_schedule(written, planned)
    choose(made, "sampler", sampler, "sampler", written)
    choose(made, "schedule", schedule, "scheduler", planned)
    made.model(str(rest.pop("base_model", "")), find_model, str(rest.get("base_model_hash", "")))
    if rest.get("refiner_model", "None") == "None":
        rest.pop("refiner_switch", None)
    combined = [rest.pop(name) for name in list(rest) if name.startswith("lora_combined_")]
    loras = rest.pop("loras", None)
    if not isinstance(loras, list):
        loras = [value.rpartition(" : ")[::2] for value in combined if isinstance(value, str)]
    for lora in loras:
        if isinstance(lora, list | tuple) and len(lora) >= 2:
            made.lora(lora[0], lora[1], hash=lora[2] if len(lora) > 2 else "")
        else:
            made.leave("loras", lora)
    made.settings["rng"] = "torch"
    leave_rest(made, rest, _ABSENT)
    return made.recipe()
