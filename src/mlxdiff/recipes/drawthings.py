"""Draw Things' metadata into a recipe: JSON in the UserComment of its XMP."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any

from . import a1111, names
from .a1111 import choose
from .recipe import FindModel, Gathering, Recipe, leave_rest, object_of, take_all

NAMES = ("XML:com.adobe.xmp", "xmp")
_TABLE = {"c": "prompt", "uc": "negative_prompt", "steps": "steps", "scale": "guidance_scale", "seed": "seed"}
_ABSENT: dict[str, Any] = {"v2": ..., "seed_mode": ..., "profile": ...}  # v2 says all of it again


def read(texts: Mapping[str, str], find_model: FindModel | None) -> Recipe | None:
    """The recipe of Draw Things' XMP, or None."""
    for name in NAMES:
        for part in re.findall(r"<rdf:li[^>]*>(\s*\{.*?)</rdf:li>", texts.get(name, ""), re.DOTALL)[:20]:
            values = object_of(html.unescape(part))
            if values is not None and "c" in values:
                return _recipe(values, find_model)
    return None


def _recipe(values: dict[str, Any], find_model: FindModel | None) -> Recipe:
    made = Gathering("drawthings")
    rest = take_all(made, values, _TABLE)
    written = str(rest.pop("sampler", ""))
    sampler, schedule = names.sampler_and_schedule(written)
    choose(made, "sampler", sampler, "sampler", written)
    choose(made, "schedule", schedule, "sampler", written)
    a1111.size(made, "size", str(rest.pop("size", "")))
    made.model(str(rest.pop("model", "")), find_model)
    if rest.get("strength") in (1, 1.0):
        del rest["strength"]
    elif "strength" in rest:
        made.take("strength", rest.pop("strength"), "strength")
    loras = rest.pop("lora", None)
    for lora in loras if isinstance(loras, list) else ():
        if isinstance(lora, dict):
            made.lora(lora.get("model"), lora.get("weight", 1.0))
        else:
            made.leave("lora", lora)
    leave_rest(made, rest, _ABSENT)
    return made.recipe()
