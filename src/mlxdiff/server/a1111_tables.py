"""What there is, as A1111's clients ask for it: models, samplers, schedulers, LoRAs, upscalers. No path is told."""

from __future__ import annotations

from .. import hub
from ..catalogue import SAMPLERS, SCHEDULES, UPSCALERS
from ..recipes.names import sampler_name, schedule_name
from .answers import Answer, in_json
from .names import Names


def options(names: Names) -> Answer:
    base = names.base
    return in_json(
        {
            "sd_model_checkpoint": names.own,
            "sd_checkpoint_hash": "",
            "sd_vae": "Automatic",
            "CLIP_stop_at_last_layers": 1 if base.clip_skip is None else base.clip_skip,
            "samples_format": "png",
            "enable_pnginfo": True,
        }
    )


def samplers(_: Names) -> Answer:
    found = [
        {"name": sampler_name(name), "aliases": list(dict.fromkeys((name, *row.names))), "options": {}}
        for name, row in SAMPLERS.items()
    ]
    return in_json(found)


def schedulers(_: Names) -> Answer:
    found = [
        {"name": name, "label": schedule_name(name), "aliases": None, "default_rho": -1, "need_inner_model": False}
        for name in SCHEDULES
    ]
    own = {"name": "automatic", "label": "Automatic", "aliases": None, "default_rho": -1, "need_inner_model": False}
    return in_json([own, *found])


def models(names: Names) -> Answer:
    listed = [
        {"title": name, "model_name": name, "hash": None, "sha256": None, "filename": name, "config": None}
        for name in names.models()
    ]
    return in_json(listed)


def loras(_: Names) -> Answer:
    found = dict.fromkeys(part.name for part in hub.named_parts("lora"))
    return in_json([{"name": name, "alias": name, "path": name, "metadata": {}} for name in found])


def upscalers(_: Names) -> Answer:
    found = [row.a1111[0] if row.a1111 else row.name for row in UPSCALERS.values()]
    return in_json(
        [{"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 4} for name in found]
    )


def scripts(_: Names) -> Answer:
    """There are none."""
    return in_json({"txt2img": [], "img2img": []})
