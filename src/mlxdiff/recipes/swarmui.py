"""SwarmUI's metadata into a recipe: `parameters` is JSON whose `sui_image_params` has small letters for names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import names
from .a1111 import choose
from .recipe import FindModel, Gathering, Recipe, leave_rest, object_of, take_all

_TABLE = {
    "prompt": "prompt",
    "negativeprompt": "negative_prompt",
    "steps": "steps",
    "cfgscale": "guidance_scale",
    "seed": "seed",
    "width": "width",
    "height": "height",
}
_ABSENT: dict[str, Any] = {
    "images": ...,
    "batchsize": ...,
    "swarm_version": ...,
    "aspectratio": ...,
    "sidelength": ...,
    "automaticvae": ...,
    "personalnote": ...,
    "imageformat": ...,
    "date": ...,
}


def read(texts: Mapping[str, str], find_model: FindModel | None) -> Recipe | None:
    """The recipe of SwarmUI's JSON, or None."""
    values = object_of(texts.get("parameters"))
    params = None if values is None else values.get("sui_image_params")
    if not isinstance(params, dict):
        return None
    made = Gathering("swarmui")
    rest = take_all(made, params, _TABLE)
    written, planned = (_either(rest, name) for name in ("sampler", "scheduler"))
    sampler, schedule = names.sampler_and_schedule(written, planned)
    choose(made, "sampler", sampler, "sampler", written)
    choose(made, "schedule", schedule, "scheduler", planned)
    model = rest.pop("model", "")
    made.model(model.rsplit("/", 1)[-1] if isinstance(model, str) else "", find_model)
    strength = rest.pop("initimagecreativity", None)
    if rest.get("initimage") is not None:
        made.take("strength", strength, "initimagecreativity")
    layer = rest.pop("clipstopatlayer", None)
    if str(layer).lstrip("-").isdecimal() and str(layer) != "-1":
        made.take("clip_skip", abs(int(str(layer))), "clipstopatlayer")
    loras, scales, clips = (_listed(rest.pop(name, None)) for name in ("loras", "loraweights", "loratencweights"))
    for i, one in enumerate(loras):
        scale = scales[i] if i < len(scales) else 1.0
        made.lora(one, scale, clips[i] if i < len(clips) else None)
    made.settings["rng"] = "torch"  # ComfyUI renders it
    leave_rest(made, rest, _ABSENT)
    made.preset(prompt_syntax="comfyui", compat="comfyui")
    return made.recipe()


def _listed(value: Any) -> list[Any]:
    """A list, which older versions write between commas."""
    found = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else []
    return [item.strip() if isinstance(item, str) else item for item in found]


def _either(values: dict[str, Any], name: str) -> str:
    """The value under its name, or under the one that it had while other backends had their own."""
    found = [value for key in (name, f"comfyui{name}", f"autowebui{name}") if (value := values.pop(key, None))]
    return found[0] if found and isinstance(found[0], str) else ""
