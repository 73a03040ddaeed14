"""The second pass and the refiner in A1111's text: what of them needs more than its setting's declaration."""

from __future__ import annotations

import re

from ..catalogue import find_upscaler
from ..errors import RequestError
from . import names
from .infotext import Infotext
from .recipe import FindModel, Gathering, by_name

_SIDES = re.compile(r"([0-9]{1,7})\s*[xX×✕*]\s*([0-9]{1,7})")
_HASH = re.compile(r"\s*\[[0-9a-fA-F]{4,64}\]\s*$")
_SAME = ("", "use same sampler", "use same scheduler")


def read(made: Gathering, found: Infotext, find_model: FindModel | None, *, is_ours: bool) -> None:
    """Takes what the text says of its stages; what it names and nothing here is called is left."""
    _sampler(made, found)
    _upscaler(made, found, is_ours=is_ours)
    _size(made, found)
    _refiner(made, found, find_model)


def strength(made: Gathering, found: Infotext, *, enlarged: bool) -> None:
    """Of a picture that was enlarged, the strength is that of the second pass."""
    if enlarged and "denoising strength" in found.values and "hires strength" not in found.values:
        written, value = found.values.pop("denoising strength")
        made.take("hires_strength", value, written)


def _sampler(made: Gathering, found: Infotext) -> None:
    written, kind = (found.values.get(name, ("", ""))[1] for name in ("hires sampler", "hires schedule type"))
    sampler = "" if written.lower() in _SAME else written
    planned = "" if kind.lower() in _SAME else kind
    ours, schedule = names.sampler_and_schedule(sampler or str(made.settings.get("sampler", "")), planned)
    for name, value in (("hires_sampler", ours if sampler else None), ("hires_schedule", schedule)):
        text = found.pop("hires sampler" if name == "hires_sampler" else "hires schedule type")
        if value is None or (name == "hires_schedule" and not sampler and not planned):
            continue
        try:
            made.settings[name] = by_name()[name].kind.parse(name, value)
        except RequestError:
            made.leave("Hires sampler" if name == "hires_sampler" else "Hires schedule type", text or value, name)


def _upscaler(made: Gathering, found: Infotext, *, is_ours: bool) -> None:
    """A network that is not here by its name gives way to Lanczos' filter, which is said."""
    value = found.values.get("hires upscaler", ("", ""))[1]
    if not value or is_ours or find_upscaler(value) is not None:
        return
    found.pop("hires upscaler")
    made.leave("Hires upscaler", value, "hires_upscaler")
    made.settings["hires_upscaler"] = "lanczos"


def _size(made: Gathering, found: Infotext) -> None:
    """Of a size with one side of 0 that follows from the picture's own; a size counts more than a factor."""
    written, value = found.values.get("hires resize", ("", ""))
    sides = _SIDES.fullmatch(value.strip())
    if sides is None:
        return
    width, height = int(sides[1]), int(sides[2])
    own = made.settings.get("width"), made.settings.get("height")
    if (width == 0) != (height == 0) and isinstance(own[0], int) and isinstance(own[1], int):
        width, height = (width or height * own[0] // own[1]), (height or width * own[1] // own[0])
    if width and height:
        found.values["hires resize"] = written, f"{width}x{height}"
        found.pop("hires upscale")


def _refiner(made: Gathering, found: Infotext, find_model: FindModel | None) -> None:
    """A checkpoint by its bare name, which `find_model` may know."""
    value = found.pop("refiner")
    if value in ("", "None"):
        found.pop("refiner switch at")
        return
    name = re.sub(r"\.(?:safetensors|ckpt)$", "", _HASH.sub("", value))
    known = None if find_model is None else find_model(name)
    if known is None:
        made.leave("Refiner", value, "refiner")  # its switch stays for one that is given (finish.py)
        return
    made.settings["refiner"] = known
