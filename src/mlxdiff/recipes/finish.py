"""A recipe and what the user gives beside it become a Request; what of it does not is said."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from ..catalogue import split_sampler
from ..errors import RequestError
from ..printable import printable
from ..request import ONLY_WITH_HIRES, OPTIONS, Request
from .recipe import Recipe, Remark

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_OF_MASK = ("mask_blur", "inpaint_fill", "inpaint_area", "inpaint_padding")
_TAG = re.compile(r"(<(?:lora|lyco):)([^:<>\n]{1,200})")
_MOST = 100  # things that one sentence names


FindLora = Callable[[str, str], str | None]
"""(name, short hash or "") -> the reference of a LoRA that is on this machine, or None."""


def finished(
    recipe: Recipe, given: Mapping[str, Any] = _NOTHING, find_lora: FindLora | None = None
) -> tuple[Request, list[str]]:
    """The request, and the sentences about what it leaves out.

    What is given replaces the recipe's before that is judged. One setting that does not go with the others is lost,
    not the recipe. Raises RequestError for what is given.
    """
    settings = {name: value for name, value in recipe.settings.items() if name not in given}
    if find_lora is not None:
        recipe = _with_loras(recipe, settings, find_lora)
    said = sayings(recipe, given)
    said += _without_options(settings, given)
    said += _without_pictures(settings, given)
    said += _without_passes(settings, given)
    try:
        return Request.from_dict({**settings, **given}), said
    except RequestError as error:
        for name in reversed(settings):
            rest = {other: value for other, value in settings.items() if other != name}
            try:
                request = Request.from_dict({**rest, **given})
            except RequestError:
                continue
            return request, [*said, f"The text's {name} is left out. {error.problem}"]
        raise


def _without_passes(settings: dict[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Drops what is said of a second pass or a refiner that there is none of, and names it."""
    said = {**settings, **given}
    alone = [] if said.get("refiner") is not None else ["refiner_switch"]
    if said.get("hires") is None and said.get("hires_size") is None:
        alone += ONLY_WITH_HIRES
    unused = {name: settings.pop(name) for name in alone if name in settings}
    return [f"The text's {name} is left out: it has no pass to hold for." for name in unused]


def _without_pictures(settings: dict[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Drops what goes with the picture, or the mask, that the text does not name; says so."""
    has = {name for name in ("image", "mask", "expand") if given.get(name, settings.get(name)) is not None}
    said = []
    strength = settings.get("strength")
    if strength is not None and "image" not in has:
        del settings["strength"]
        said.append(
            f"The text has a denoising strength of {strength:g} but not the picture that this one was made from:"
            " it is left out. Give that picture with --image, or expect another one."
        )
    if settings.get("image_guidance_scale") is not None and "image" not in has:
        del settings["image_guidance_scale"]
        said.append("The text names no picture that its instruction edits. Give it with --image.")
    of_mask = [name for name in _OF_MASK if settings.get(name) is not None]
    if of_mask and not ("image" in has and {"mask", "expand"} & has):
        for name in of_mask:
            del settings[name]
        said.append(
            f"The picture was made with a mask that its text does not name: its {_listed(of_mask)} are left out."
            " Give it with --mask, or expect another picture."
        )
    return said


def _with_loras(recipe: Recipe, settings: dict[str, Any], find: FindLora) -> Recipe:
    """Gives each LoRA among the settings, and in A1111's tags, the reference by which it is found here; of the
    settings those that are not there count as not used."""
    found, unused = [], []
    for lora in settings.pop("lora", ()):
        reference = find(lora.ref, recipe.hashes.get(lora.ref, ""))
        if reference is None:
            unused.append(Remark(printable(f"LoRA {lora.ref} ({lora.scale:g})"), "", "lora"))
        else:
            found.append(replace(lora, ref=reference))
    if found:
        settings["lora"] = tuple(found)
    if isinstance(settings.get("prompt"), str) and recipe.hashes:
        settings["prompt"] = _TAG.sub(lambda tag: _renamed(tag, recipe.hashes, find), settings["prompt"])
    return replace(recipe, unused=(*recipe.unused, *unused))


def _renamed(tag: re.Match[str], hashes: Mapping[str, str], find: FindLora) -> str:
    """A tag whose LoRA has another name here, by its hash."""
    reference = find(tag[2], hashes[tag[2]]) if tag[2] in hashes else None
    usable = reference is not None and not set(reference) & set(":<>=")
    return f"{tag[1]}{reference}" if usable else tag[0]


def _without_options(settings: dict[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Drops options that the sampler does not take, as other programs write for any; names those above 0."""
    name = given.get("sampler", settings.get("sampler"))
    try:
        takes = None if name is None else {option.name for option in split_sampler(name)[0].options}
    except RequestError:  # what is given is judged with the request
        return []
    unused = [] if takes is None else [option for option in OPTIONS if option in settings and option not in takes]
    values = {option: settings.pop(option) for option in unused}
    return [f"The sampler {name} has no {option}: it is left out." for option, value in values.items() if value]


def sayings(recipe: Recipe, given: Mapping[str, Any] = _NOTHING) -> list[str]:
    """The sentences about what the recipe lost and did not use, except settings that are given."""
    said = [f"{remark.problem} {remark.remedy}".strip() for remark in recipe.lost if _counts(remark, given)]
    unused = [remark.problem for remark in recipe.unused if _counts(remark, given)]
    if unused:
        said.append(f"The picture was made with {_listed(unused)}, which mlxdiff leaves out. Expect another picture.")
    return said


def _counts(remark: Remark, given: Mapping[str, Any]) -> bool:
    return remark.setting is None or remark.setting not in given


def _listed(parts: list[str]) -> str:
    """The parts for one line, each cut."""
    shown = [part if len(part) <= 80 else f"{part[:80]}..." for part in parts[:_MOST]]
    return ", ".join(shown) + (f" and {len(parts) - _MOST} more" if len(parts) > _MOST else "")
