"""What A1111's clients send, as a recipe: a payload says the same things as A1111's text in a picture, in other words.

A field is named as the setting is in that text, in small letters with `_` (`cfg_scale` is "CFG scale", `hr_prompt` is
"Hires prompt"), or as the setting itself; the rest is in a table. Whatever no setting used is named in the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from ..catalogue import SAMPLERS
from ..errors import RequestError
from ..recipes import a1111, finished
from ..recipes.infotext import Infotext
from ..recipes.names import sampler_and_schedule
from ..recipes.recipe import Gathering, Recipe, Remark, by_name, leave_rest
from ..request import Request
from . import received
from .answers import Refusal
from .bodies import check_text
from .limits import Limits
from .names import Names

# Fields whose name follows from no rule -> the name in A1111's text.
_TABLE = {
    "sampler_name": "Sampler",
    "sampler_index": "Sampler",  # an older name
    "scheduler": "Schedule type",
    "subseed": "Variation seed",
    "subseed_strength": "Variation seed strength",
    "inpainting_fill": "Masked content",
    "inpaint_full_res": "Inpaint area",
    "inpaint_full_res_padding": "Masked area padding",
    "refiner_checkpoint": "Refiner",
    "hr_scale": "Hires upscale",
    "hr_second_pass_steps": "Hires steps",
    "hr_sampler_name": "Hires sampler",
    "hr_scheduler": "Hires schedule type",
}
_OVERRIDES = {"CLIP_stop_at_last_layers": "Clip skip", "eta_noise_seed_delta": "ENSD", "randn_source": "RNG"}
MODEL = "sd_model_checkpoint"
_FILL = {0: "fill", 1: "original", 2: "latent noise", 3: "latent nothing"}
_AREA = {0: "whole picture", 1: "only masked"}  # also found by False and True
_FIT = {0: "stretch", 1: "crop", 2: "pad"}
# Values with which a field asks for nothing; ... is any: what is kept, saved or called is the server's affair.
_ABSENT: Mapping[str, Any] = {
    "do_not_save_samples": ...,
    "do_not_save_grid": ...,
    "override_settings_restore_afterwards": ...,
    "force_task_id": ...,
    "send_images": True,
    "s_min_uncond": 0,
    "firstphase_width": 0,
    "firstphase_height": 0,
    "mask_blur_x": 4,
    "mask_blur_y": 4,
    "initial_noise_multiplier": 1,
    "script_args": ...,  # of a script, which is named itself
    "resize_mode": 0,
}
# Values that clients send whatever is asked for: eta says nothing to a sampler without it.
_NOTHING = {
    "s_churn": 0,
    "s_tmin": 0,
    "s_tmax": 0,
    "s_noise": 1,
    "hr_second_pass_steps": 0,
    "image_cfg_scale": 1.5,
}
_ETAS = (0, 1)
_OF_MASK = (
    "mask_blur",
    "inpainting_fill",
    "inpaint_full_res",
    "inpaint_full_res_padding",
    "mask_blur_x",
    "mask_blur_y",
)
_PRESET = ("compat", "prompt_syntax", "rng")


@dataclass(frozen=True)
class Asked:
    """A payload as a Request; `said` is what of it is not done; `sends`, whether pictures are part of the answer."""

    request: Request
    said: tuple[str, ...]
    sends: bool


@cache
def fields() -> dict[str, str]:
    """Field of the payload -> name in A1111's text."""
    found = {}
    for item in by_name().values():
        if item.a1111 is not None and item.name not in a1111_other_meanings():
            slug = item.a1111.lower().replace(" ", "_").replace("hires_", "hr_")
            found[slug] = found[item.name] = item.a1111
    return found | _TABLE


def a1111_other_meanings() -> frozenset[str]:
    """Settings whose name in A1111's text means another thing to A1111."""
    named = {item.a1111.lower(): item.name for item in by_name().values() if item.a1111 is not None}
    return frozenset(named[name] for name in a1111.ANOTHER_MEANING)


def read(payload: Mapping[str, Any], names: Names, limits: Limits, *, from_picture: bool) -> Asked:
    """The request of a `txt2img` or, `from_picture`, an `img2img` payload. Raises Refusal and MlxdiffError."""
    rest = {name: value for name, value in payload.items() if value is not None}
    extra = Gathering("a1111")
    given: dict[str, Any] = _count(rest, limits)
    given |= {side: rest.pop(side) for side in ("width", "height") if side in rest}
    if from_picture:
        given |= _pictures(rest, extra)
    given |= _overrides(rest, names, extra)
    sends = rest.get("send_images", True) is not False
    if not sends:
        rest.pop("send_images")
    size = [given.get(side, getattr(names.base, side)) for side in ("width", "height")]
    recipe = a1111.recipe_of(_infotext(rest, size, from_picture=from_picture), names.model)
    leave_rest(extra, rest, _ABSENT)
    _judge(recipe)
    said = [f"Not used: {remark.problem}." for remark in (*recipe.unused, *extra.recipe().unused)]
    request, more = finished(_on(recipe, names.base), given)
    return Asked(request, (*said, *more), sends)


def _on(recipe: Recipe, base: Request) -> Recipe:
    """The recipe on what the server gives: its settings go before what is A1111's unasked, and behind what is asked."""
    unasked = {name: value for name, value in recipe.settings.items() if name in _PRESET}
    asked = {name: value for name, value in recipe.settings.items() if name not in _PRESET}
    own = {name: getattr(base, name) for name in base.values() if name not in ("prompt", "n_images", "hashes")}
    if "compat" in own:
        unasked = {}
    return replace(recipe, settings={**unasked, **own, **asked}, unused=(), lost=())


def _judge(recipe: Recipe) -> None:
    """Raises RequestError for a value that is none, and for a sampler or a schedule that there is none of."""
    for remark in recipe.lost:
        raise RequestError(remark.why or remark.problem, remark.remedy)
    for remark in recipe.unused:
        if _names_a_choice(remark):
            raise RequestError(f"There is no {remark.problem}.", "GET /sdapi/v1/samplers and /schedulers list them.")


def _names_a_choice(remark: Remark) -> bool:
    return remark.setting is not None and remark.setting.endswith(("sampler", "schedule"))


def _count(rest: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """batch_size times n_iter."""
    n_images = 1
    for name in ("batch_size", "n_iter"):
        value = rest.pop(name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limits.images:
            raise Refusal(422, f"{name} is a whole number from 1 to {limits.images}.", parameter=name)
        n_images *= value
    return {"n_images": n_images}


def _pictures(rest: dict[str, Any], extra: Gathering) -> dict[str, Any]:
    sent = rest.pop("init_images", None)
    if not isinstance(sent, list) or not sent:
        raise Refusal(422, "init_images holds no picture. Send one in base64.", parameter="init_images")
    if len(sent) > 1:
        extra.leave("init_images", f"{len(sent) - 1} beside the first")
    given: dict[str, Any] = {"image": received.on_white(received.from_base64("init_images", sent[0]))}
    inverted = rest.pop("inpainting_mask_invert", 0)
    if "mask" in rest:
        given["mask"] = received.mask(received.from_base64("mask", rest.pop("mask")), inverted=inverted in (1, True))
    else:
        for name in _OF_MASK:
            rest.pop(name, None)
    fit = rest.get("resize_mode")
    if isinstance(fit, int) and fit in _FIT:
        given["fit"] = _FIT[rest.pop("resize_mode")]
    return given


def _overrides(rest: dict[str, Any], names: Names, extra: Gathering) -> dict[str, Any]:
    """The model; what has a name in A1111's text goes there; all else is not used."""
    overrides = rest.pop("override_settings", {})
    if not isinstance(overrides, dict):
        raise Refusal(422, "override_settings is no object.", parameter="override_settings")
    given: dict[str, Any] = {}
    for name, value in overrides.items():
        if name == MODEL and isinstance(value, str) and value:
            given |= names.with_model(value)
        elif name in _OVERRIDES:
            rest[_OVERRIDES[name]] = value
        else:
            extra.leave(f"override_settings.{name}", value)
    return given


def _infotext(rest: dict[str, Any], own: list[Any], *, from_picture: bool) -> Infotext:
    """Takes out of `rest` what A1111's text has a name for. `own` is the picture's width and height."""
    prompt, negative = (_text(name, rest.pop(name, "")) for name in ("prompt", "negative_prompt"))
    enlarges = rest.pop("enable_hr", False) in (True, 1) and not from_picture
    size = [rest.pop(f"hr_resize_{axis}", 0) for axis in "xy"]
    if not enlarges:
        rest_of_pass = [name for name in rest if name.startswith("hr_")]
        for name in [*rest_of_pass, *(() if from_picture else ("denoising_strength",))]:
            rest.pop(name, None)
    elif any(size):
        rest["hires_size"] = _enlarged(size, own)
    else:
        rest.setdefault("hr_scale", 2)
    _variation(rest)
    if rest.get("sampler_name"):
        rest.pop("sampler_index", None)
    blur = rest.get("mask_blur_x")
    if blur is not None and blur == rest.get("mask_blur_y") and "mask_blur" not in rest:
        rest["mask_blur"] = blur
        del rest["mask_blur_x"], rest["mask_blur_y"]
    for name, words in (("inpainting_fill", _FILL), ("inpaint_full_res", _AREA)):
        if isinstance(rest.get(name), int):
            rest[name] = words.get(rest[name], str(rest[name]))
    if rest.get("eta") in _ETAS and not _takes_eta(rest):
        del rest["eta"]
    found = Infotext(prompt, negative)
    known = fields() | {name: name for name in _OVERRIDES.values()}
    for name in [name for name in rest if name in known]:
        value = rest.pop(name)
        if value in ("", "None") or (name in _NOTHING and value == _NOTHING[name]):
            continue
        found.values.setdefault(known[name].lower(), (name, _text(name, value)))
    return found


def _enlarged(size: list[Any], own: list[Any]) -> str:
    """The size of a second pass; a side of 0 follows from the other one, as in A1111."""
    for axis, other in ((0, 1), (1, 0)):
        if not size[axis] and isinstance(size[other], int) and isinstance(own[axis], int) and own[other]:
            size[axis] = size[other] * own[axis] // own[other]
    return f"{size[0]}x{size[1]}"


def _takes_eta(rest: Mapping[str, Any]) -> bool:
    """Whether the sampler that is named has an eta of its own."""
    named = rest.get("sampler_name") or rest.get("sampler_index")
    name, _ = sampler_and_schedule(named) if isinstance(named, str) else ("", None)
    return name in SAMPLERS and any(option.name == "eta" for option in SAMPLERS[name].options)


def _variation(rest: dict[str, Any]) -> None:
    """Another seed that is not mixed in says nothing; nor do sides of a picture that is none."""
    if not rest.get("subseed_strength"):
        rest.pop("subseed", None)
        rest.pop("subseed_strength", None)
    elif rest.get("subseed") == -1:
        import secrets

        rest["subseed"] = secrets.randbelow(2**32)
    sides = [rest.pop(f"seed_resize_from_{axis}", 0) for axis in "wh"]
    if all(isinstance(side, int) and side > 0 for side in sides):
        rest["seed_resize"] = f"{sides[0]}x{sides[1]}"


def _text(name: str, value: Any) -> str:
    """A value as A1111's text writes it."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise Refusal(422, f"{name} is {_kind(value)}, not text or a number.", parameter=name)
    if isinstance(value, str):
        check_text(name, value)
    return str(value)


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", bool: "true or false"}.get(type(value), "nothing")
