"""Civitai's JSON of a picture into a recipe: what its API calls `meta`, and `extraMetadata` in its ComfyUI graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import a1111, names
from .a1111 import choose
from .recipe import FindModel, Gathering, Recipe, leave_rest, object_of, take_all

_TABLE = {
    "prompt": "prompt",
    "negativePrompt": "negative_prompt",
    "steps": "steps",
    "cfgScale": "guidance_scale",
    "seed": "seed",
    "width": "width",
    "height": "height",
    "clipSkip": "clip_skip",
}
_ABSENT: dict[str, Any] = {
    "Model hash": ...,
    "Version": ...,
    "Created Date": ...,
    "clipSkip": 1,
    "Clip skip": "1",
    "hashes": ...,  # of the resources
    "nsfw": ...,
    "draft": False,
    "quantity": 1,
    "workflow": "txt2img",
    "workflowId": "txt2img",
    "process": "txt2img",
    "baseModel": ...,
    "aspectRatio": ...,
    "outputFormat": ...,
    "priority": ...,
    "sourceImage": None,
    "comfy": ...,
}


def read(texts: Mapping[str, str], find_model: FindModel | None) -> Recipe | None:
    """The recipe of Civitai's JSON, or None."""
    values = object_of(texts.get("parameters"))
    if values is None:
        graph = object_of(texts.get("prompt"))
        extra = None if graph is None else graph.get("extraMetadata")
        values = object_of(extra) if isinstance(extra, str) else extra if isinstance(extra, dict) else None
    if values is not None and isinstance(values.get("meta"), dict):
        values = values["meta"]
    if values is None or not {"cfgScale", "negativePrompt", "sampler", "steps"} & values.keys():
        return None
    made = Gathering("civitai")
    if values.get("clipSkip") == 1:
        values = {name: value for name, value in values.items() if name != "clipSkip"}
    rest = take_all(made, values, _TABLE)
    written = str(rest.pop("sampler", ""))
    planned = str(rest.pop("Schedule type", rest.pop("scheduler", "")))
    sampler, schedule = names.sampler_and_schedule(written, planned)
    choose(made, "sampler", sampler, "sampler", written)
    choose(made, "schedule", schedule, "Schedule type", planned or f"{schedule}")
    a1111.size(made, "Size", str(rest.pop("Size", "")))
    source = str(rest.pop("RNG", "gpu" if str(rest.get("Version", "")).startswith(("v", "f")) else ""))
    choose(made, "rng", names.noise(source), "RNG", source)
    made.model(str(rest.pop("Model", "")), find_model, str(rest.get("Model hash", "")))
    for name in ("resources", "civitaiResources"):
        resources = rest.pop(name, None)
        if resources:
            a1111.resources(made, name, resources)
    leave_rest(made, rest, _ABSENT)
    made.preset(**a1111.PRESET)
    return made.recipe()
