"""What there is, as A1111's clients ask for it: models, samplers, schedulers, LoRAs, upscalers. No path is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .. import hub
from ..catalogue import SAMPLERS, SCHEDULES, UPSCALERS
from ..recipes.names import sampler_name, schedule_name
from .a1111_payload import MODEL
from .answers import Answer, Refusal, in_json
from .names import Names


def options(names: Names) -> Answer:
    base = names.base
    return in_json(
        {
            MODEL: names.own,
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
    names = [name for row in UPSCALERS.values() if not row.in_latents for name in row.a1111]
    listed = [{"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 4} for name in names]
    return in_json(listed)


def latent_upscalers(_: Names) -> Answer:
    return in_json([{"name": row.a1111[0]} for row in UPSCALERS.values() if row.in_latents])


def nothing(value: Any) -> Callable[[Names], Answer]:
    """The table of what there is none of."""
    return lambda _: in_json(value)


NOTHING = {
    "scripts": {"txt2img": [], "img2img": []},
    "sd-vae": [],
    "embeddings": {"loaded": {}, "skipped": {}},
    "hypernetworks": [],
    "face-restorers": [],
    "prompt-styles": [],
    "extensions": [],
}


def set_options(asked: Mapping[str, Any], names: Names) -> Answer:
    """The model that is served may be chosen again; raises Refusal for any other change."""
    for name, value in asked.items():
        is_served = (
            name == MODEL and isinstance(value, str) and names.model(value) == (names.base.model or hub.BUILT_IN)
        )
        if not is_served:
            message = f"{name} is the operator's. A request may name a model: override_settings with {MODEL}."
            raise Refusal(422, message, parameter=name)
    return in_json(None)
