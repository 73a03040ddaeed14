"""InvokeAI's metadata into a recipe: `invokeai_metadata` (version 3 on), `sd-metadata` (2) and `Dream` (1)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from . import names
from .a1111 import choose
from .recipe import FindModel, Gathering, Recipe, leave_rest, object_of, take_all

NAMES = ("invokeai_metadata", "sd-metadata", "Dream")
_TABLE = {
    "positive_prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "width": "width",
    "height": "height",
    "seed": "seed",
    "cfg_scale": "guidance_scale",
    "cfg_rescale_multiplier": "guidance_rescale",
    "steps": "steps",
}
_OLD = {"steps": "steps", "cfg_scale": "guidance_scale", "height": "height", "width": "width", "seed": "seed"}
# Says nothing of the picture (...), or means what holds without it.
_ABSENT: dict[str, Any] = {
    "app_version": ...,
    "app_id": ...,
    "generation_mode": ...,
    "created_by": ...,
    "_canvas_objects": ...,
    "type": "txt2img",
    "seamless": False,
    "threshold": 0,
    "perlin": 0,
    "hires_fix": False,
    "model_hash": ...,
    "model": "stable diffusion",
    "model_id": ...,
    "postprocessing": None,
    "variations": [],
    "fit": True,
    "progressive": "none",
}
_DREAM = {"s": "steps", "S": "seed", "W": "width", "H": "height", "C": "guidance_scale"}


def read(texts: Mapping[str, str], find_model: FindModel | None) -> Recipe | None:
    """The recipe of the newest form that is there, or None."""
    if (values := object_of(texts.get("invokeai_metadata"))) is not None:
        return _new(values, find_model)
    if (values := object_of(texts.get("sd-metadata"))) is not None and isinstance(values.get("image"), dict):
        return _old(values, find_model)
    return _dream(texts["Dream"]) if "Dream" in texts else None


def _new(values: dict[str, Any], find_model: FindModel | None) -> Recipe:
    made = Gathering("invokeai")
    rest = take_all(made, values, _TABLE)
    _scheduler(made, rest.pop("scheduler", ""), "scheduler")
    choose(made, "rng", names.noise(str(rest.pop("rand_device", "cpu"))), "rand_device", "rand_device")
    model = rest.pop("model", None)
    if isinstance(model, dict):
        called = model.get("name", model.get("model_name", ""))
        made.model(called if isinstance(called, str) else "", find_model, str(model.get("hash", "")))
    loras = rest.pop("loras", None)
    for lora in loras if isinstance(loras, list) else ():
        _lora(made, lora)
    _refiner(made, rest, values, find_model)
    skipped = rest.pop("clip_skip", 0)
    if isinstance(skipped, int) and skipped:
        made.take("clip_skip", skipped + 1, "clip_skip")  # which counts the layers that are left out
    strength = rest.pop("strength", None)
    if "init_image" in rest:
        made.take("strength", strength, "strength")
    for name, prompt in (("positive_style_prompt", "positive_prompt"), ("negative_style_prompt", "negative_prompt")):
        if rest.get(name) == values.get(prompt):
            rest.pop(name, None)
    leave_rest(made, rest, _ABSENT)
    return made.recipe()


def _lora(made: Gathering, lora: Any) -> None:
    model = lora.get("model", lora.get("lora")) if isinstance(lora, dict) else None
    if isinstance(model, dict):
        made.lora(model.get("name", model.get("model_name")), lora.get("weight", 1.0))
    else:
        made.leave("loras", lora)


def _refiner(made: Gathering, rest: dict[str, Any], values: Mapping[str, Any], find_model: FindModel | None) -> None:
    """A refiner whose checkpoint is known here; of what it is told, only that it starts later than the model."""
    model = rest.get("refiner_model")
    called = model.get("name", model.get("model_name")) if isinstance(model, dict) else None
    known = find_model(called) if isinstance(called, str) and find_model is not None else None
    if known is None:
        return
    made.settings["refiner"] = known
    del rest["refiner_model"]
    made.take("refiner_switch", rest.pop("refiner_start", None), "refiner_start")
    same = {f"refiner_{name}": values.get(name) for name in ("steps", "cfg_scale", "scheduler")}
    same |= {"refiner_positive_aesthetic_score": 6.0, "refiner_negative_aesthetic_score": 2.5}
    for name, value in same.items():
        if rest.get(name) == value:
            rest.pop(name, None)


def _old(values: dict[str, Any], find_model: FindModel | None) -> Recipe:
    made = Gathering("invokeai")
    image = values.pop("image")
    prompts = image.pop("prompt", "")
    if isinstance(prompts, list):
        parts = [part.get("prompt", "") for part in prompts if isinstance(part, dict)]
        prompts = " ".join(part for part in parts if isinstance(part, str))
        if len(parts) > 1:
            made.leave("prompts with weights", len(parts))
    _prompts(made, prompts if isinstance(prompts, str) else "")
    rest = take_all(made, image, _OLD)
    _scheduler(made, rest.pop("sampler", ""), "sampler")
    called = values.pop("model_weights", "")
    made.model(called if isinstance(called, str) else "", find_model, str(values.get("model_hash", "")))
    leave_rest(made, {**values, **rest}, _ABSENT)
    return made.recipe()


def _dream(text: str) -> Recipe:
    """`"a prompt [negative]" -s 50 -S 1 -W 512 -H 512 -C 7.5 -A k_lms`."""
    made = Gathering("invokeai")
    found = re.match(r'\s*"([^"]*)"(.*)', text, re.DOTALL)
    prompt, options = ("", text) if found is None else (found[1], found[2])
    _prompts(made, prompt)
    try:
        words = shlex.split(options[:10_000])
    except ValueError:
        words = options.split()
    at = 0
    while at < len(words):
        option = re.fullmatch(r"-{1,2}([A-Za-z_]+)[= ]?(.*)", words[at], re.DOTALL)
        value = "" if option is None else option[2]
        if option is not None and not value and at + 1 < len(words) and not re.match(r"-{1,2}[A-Za-z]", words[at + 1]):
            at += 1
            value = words[at]
        if option is None:
            made.leave(words[at])
        elif option[1] in _DREAM:
            made.take(_DREAM[option[1]], value, f"-{option[1]}")
        elif option[1] == "A":
            _scheduler(made, value, "-A")
        else:
            made.leave(f"-{option[1]}", value)
        at += 1
    return made.recipe()


def _prompts(made: Gathering, text: str) -> None:
    """What stands in square brackets is the negative prompt."""
    negative = ", ".join(part.strip() for part in re.findall(r"\[([^\[\]]*)\]", text))
    made.take("prompt", re.sub(r"\s*\[[^\[\]]*\]", "", text).strip(), "prompt")
    if negative:
        made.take("negative_prompt", negative, "prompt")


def _scheduler(made: Gathering, written: Any, name: str) -> None:
    if isinstance(written, str):
        sampler, schedule = names.sampler_and_schedule(written)
        choose(made, "sampler", sampler, name, written)
        choose(made, "schedule", schedule, name, written)
