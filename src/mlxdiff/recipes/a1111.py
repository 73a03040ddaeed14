"""A1111's text into a recipe: of the web UI, Forge, Civitai, ComfyUI's image savers, stable-diffusion.cpp, and our own.

Each setting that is declared with a name in A1111's text is read here without being known by name. What needs more than
that: Size, Model, the sampler with its schedule, RNG, and the second pass of an enlarged picture.
"""

from __future__ import annotations

import math
import re
from typing import Any

from ..errors import RequestError
from ..request.declarations import Setting
from . import a1111_stages, names
from .infotext import Infotext, split
from .recipe import FindModel, Gathering, Recipe, by_name, json_of, shown

TAG = re.compile(r"<(\w{1,40}):([^<>\n]{1,200})>")
# What shows that a line is one of settings, beside the names of declared settings.
COMPOSED = ("size", "model", "model hash", "version", "batch size", "batch pos")
# Says nothing of how the picture looks: who made it, when, and what each file's hash was.
_RECORDS = ("version", "user", "created date", "batch size", "batch pos", "model hash", "sdcpp")
# What holds where a text does not say it (A1111's infotext_versions and defaults): then it asks for nothing.
_ABSENT = {
    "clip skip": ("1",),
    "emphasis": ("original",),
    "vae": ("none", "automatic"),
    "hires sampler": ("use same sampler",),
    "hires schedule type": ("use same scheduler",),
    "hires checkpoint": ("use same checkpoint",),
    "hires resize": ("0x0",),
    "hires steps": ("0",),
    "mask mode": ("inpaint masked",),
    "masked content": ("original",),
    "inpaint area": ("whole picture",),
    "masked area padding": ("32",),
    "schedule max sigma": ("0",),
    "schedule min sigma": ("0",),
    "schedule rho": ("0",),
    "vae encoder": ("full",),
    "vae decoder": ("full",),
    "fp8 weight": ("disable",),
    "refiner switch by sampling steps": ("false",),
}
_ABSENT_IN_SDCPP = {"guidance": ("3.5",), "eta": ("0",)}
# Names that A1111 gives to something else than the declared setting: read from mlxdiff's own texts alone.
ANOTHER_MEANING = ("token merging ratio", "postprocess upscaler")
_LORAS = ("lora", "locon", "lycoris", "dora")  # types of Civitai's resources
_MOST_HASHES = 100
_SIZE = re.compile(r"([0-9]{1,7})\s*[xX×✕*]\s*([0-9]{1,7})")


def read(text: str, find_model: FindModel | None = None) -> Recipe:
    """What the text asks for; raises RequestError where it has no settings."""
    declared = _declared()
    found = split(text, {*declared, *COMPOSED})
    if found is None:
        raise RequestError(
            "The text has no line of settings, such as 'Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1'.",
            "Give one as A1111's web UI writes it.",
        )
    return recipe_of(found, find_model)


def recipe_of(found: Infotext, find_model: FindModel | None = None) -> Recipe:
    """What the parts of a text ask for; of `found` nothing is left."""
    made = Gathering(_program(found))
    is_ours = made.program == "mlxdiff"
    _prompts(made, found, strip=not is_ours)
    _sampler(made, found)
    enlarged = any(name.startswith("hires") for name in found.values) or "first pass size" in found.values
    _size(made, found)
    _rng(made, found)
    a1111_stages.strength(made, found, enlarged=enlarged)
    a1111_stages.read(made, found, find_model, is_ours=is_ours)
    made.model(found.pop("model"), find_model, found.values.get("model hash", ("", ""))[1])
    for name, item in _declared().items():
        if name in found.values and (is_ours or name not in ANOTHER_MEANING):
            written, value = found.values.pop(name)
            if is_ours or _plain(value) not in _ABSENT.get(name, ()):
                made.take(item.name, value, written)
    _leave(made, found)
    made.preset(**_PRESETS.get(made.program, {}))
    return made.recipe()


def _declared() -> dict[str, Setting]:
    """The settings that have a name in A1111's text, by it, in lower case."""
    return {item.a1111.lower(): item for item in by_name().values() if item.a1111 is not None}


PRESET = {"prompt_syntax": "a1111", "compat": "a1111"}
_PRESETS = {"a1111": PRESET, "forge": PRESET, "comfyui": {"prompt_syntax": "comfyui", "compat": "comfyui"}}


def _program(found: Infotext) -> str:
    version = found.values.get("version", ("", ""))[1]
    for start, program in (("mlxdiff ", "mlxdiff"), ("ComfyUI", "comfyui"), ("stable-diffusion.cpp", "sd.cpp")):
        if version.startswith(start):
            return program
    return "forge" if re.match(r"(?:f|neo|classic)\d?", version) else "a1111"


def _prompts(made: Gathering, found: Infotext, *, strip: bool) -> None:
    """The prompts, without the tags of what mlxdiff does not add, which are said."""
    prompt, negative = found.prompt, found.negative
    if strip:
        prompt, negative = (_stripped(text) for text in (prompt, negative))
        used = {"lora", "lyco"}  # such tags stay: the prompt syntax reads them
        for match in (*TAG.finditer(prompt), *TAG.finditer(negative)):
            if match[1].lower() not in used:
                made.leave(match[0])
        for name in ("hires prompt", "hires negative prompt"):
            if name in found.values:
                written, text = found.values[name]
                for match in TAG.finditer(text):
                    if match[1].lower() not in used:
                        made.leave(match[0])
                found.values[name] = written, _without_tags(text, used)
        prompt, negative = (_without_tags(text, used) for text in (prompt, negative))
    for entry in found.pop("lora hashes").split(","):
        name, _, digest = entry.rpartition(":")
        if name.strip() and len(made.hashes) < _MOST_HASHES:
            made.hashes[name.strip()] = digest.strip()
    made.take("prompt", prompt, "Prompt")
    if negative:
        made.take("negative_prompt", negative, "Negative prompt")


def _without_tags(text: str, but: set[str]) -> str:
    return TAG.sub(lambda match: match[0] if match[1].lower() in but else "", text).strip()


def _stripped(text: str) -> str:
    return "\n".join(line.strip() for line in text.split("\n")).strip()


def _sampler(made: Gathering, found: Infotext) -> None:
    written, kind = found.pop("sampler"), found.pop("schedule type")
    sampler, schedule = names.sampler_and_schedule(written, kind)
    choose(made, "sampler", sampler, "Sampler", written)
    choose(made, "schedule", schedule, "Schedule type", kind or f"{schedule}")


def choose(made: Gathering, setting: str, value: str | None, name: str, written: str) -> None:
    """Takes a choice; one that there is none of is not used, rather than wrong."""
    if not value:
        return
    try:
        made.settings[setting] = by_name()[setting].kind.parse(setting, value)
    except RequestError:
        made.leave(name, written, setting)


def _size(made: Gathering, found: Infotext) -> None:
    """Until 2023 a picture in two passes had `Size` of the second, and the first one's beside it; 0x0 is automatic."""
    written, value = found.values.pop("size", ("Size", ""))
    sides = _SIZE.fullmatch(value.strip())
    first = _SIZE.fullmatch(found.values.get("first pass size", ("", ""))[1])
    if sides is not None and first is not None and int(sides[1]) and int(sides[2]):
        width, height = int(first[1]), int(first[2])
        if not width or not height:
            scale = (512 * 512 / (int(sides[1]) * int(sides[2]))) ** 0.5
            width, height = (math.ceil(scale * int(side) / 64) * 64 for side in (sides[1], sides[2]))
        made.take("hires_size", f"{sides[1]}x{sides[2]}", "Size")
        found.pop("first pass size")
        value = f"{width}x{height}"
    size(made, written, value)


def size(made: Gathering, written: str, value: str) -> None:
    """Takes width and height out of "512x768"."""
    sides = _SIZE.fullmatch(value.strip())
    if sides is not None:
        made.take("width", sides[1], written)
        made.take("height", sides[2], written)
    elif value:
        for setting in ("width", "height"):
            made.lose(setting, f"The text says {written}: {shown(value)}, which is left out.", "Write it as 512x768.")


def _rng(made: Gathering, found: Infotext) -> None:
    written = found.pop("rng")
    source = names.noise(written or ("cpu" if made.program == "comfyui" else "gpu"))
    if written and found.values.get("sampler rng", ("", ""))[1] == written:  # stable-diffusion.cpp's, of the steps
        del found.values["sampler rng"]
    if made.program != "mlxdiff" or written:
        choose(made, "rng", source, "RNG", written)


def _leave(made: Gathering, found: Infotext) -> None:
    """Names what no setting used."""
    absent = _ABSENT | (_ABSENT_IN_SDCPP if made.program == "sd.cpp" else {})
    for name, (written, value) in found.values.items():
        if name == "civitai resources":
            _resources(made, written, value)
        elif name == "hashes":
            _hashes(made, found, value)
        elif name in _RECORDS or (name.endswith(" hash") and name.removesuffix(" hash") in found.values):
            continue
        elif not _asks_nothing(value) and _plain(value) not in absent.get(name, ()):
            made.leave(written, value)
    for text in found.behind:
        made.leave("Behind the settings", text)


def _asks_nothing(value: str) -> bool:
    return value.strip() in ("", "{}", "[]", "None")


def _plain(value: str) -> str:
    """The value as `_ABSENT` writes it: small letters, and numbers at their shortest."""
    return re.sub(r"(\d)\.0*$|(\.\d*?)0+$", r"\1\2", value[:40].strip().lower())


def _resources(made: Gathering, name: str, value: str) -> None:
    try:
        resources(made, name, json_of(value))
    except RequestError:
        made.leave(name, value)


def resources(made: Gathering, name: str, found: Any) -> None:
    """Civitai's list: the checkpoint is the model's name again, all else was added."""
    if not isinstance(found, list):
        made.leave(name, found)
        return
    for resource in found:
        if not isinstance(resource, dict):
            made.leave(name, resource)
        elif resource.get("type") not in ("checkpoint", "model"):
            called = resource.get("modelName", resource.get("name", resource.get("modelVersionId", "")))
            weight = resource.get("weight")
            if str(resource.get("type")).lower() in _LORAS and isinstance(called, str) and called:
                if not _is_tagged(made, called):
                    made.lora(called, 1.0 if weight is None else weight, hash=resource.get("hash", ""))
                continue
            made.leave(f"{resource.get('type')}", f"{called}" + ("" if weight is None else f" ({weight})"))


def _is_tagged(made: Gathering, name: str) -> bool:
    """Whether the prompt asks for a LoRA by a tag already."""
    tags = (match[2].partition(":")[0].lower() for match in TAG.finditer(str(made.settings.get("prompt", ""))))
    return name.lower() in tags


def _hashes(made: Gathering, found: Infotext, value: str) -> None:
    """What files the picture was made with, by kind and name: those that the text does not name elsewhere are said."""
    try:
        hashes = json_of(value)
    except RequestError:
        hashes = {}
    texts = (text for _, text in found.values.values() if text != value)
    elsewhere = "\n".join([found.prompt, found.negative, *texts])
    for key in list(hashes)[:200] if isinstance(hashes, dict) else ():
        kind, _, name = key.partition(":")
        if kind.lower() not in ("model", "vae") and name not in elsewhere:
            made.leave("Hashes", key)
