"""The text that AUTOMATIC1111's web UI keeps in pictures, written and read: what galleries show and people share.

    a red apple, oil
    on canvas
    Negative prompt: worm
    Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 1, Size: 512x768, Model: "a, b"

Every setting that is declared with a name in this text (`a1111=`) is written here and read in recipes/a1111.py,
without being known by name. It says less than a Request: the model by a bare name, of several images the first seed.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from .. import __version__
from ..catalogue import UPSCALERS
from ..errors import MlxdiffWarning
from ..recipes import a1111, sayings
from ..recipes.infotext import BYTE_ORDER_MARK, NEGATIVE, quoted
from ..recipes.names import RNG_NAMES, sampler_name, schedule_name
from ..recipes.recipe import FindModel
from ..request import Request
from ..request.adapters import MAX_LORA_SCALE, Lora
from ..request.declarations import Number, Setting, declared
from ..request.presets import PRESETS
from .short_hashes import ShortHashes, short_hashes


def parameters_text(request: Request) -> str:
    """The request in the web UI's format: the prompt, the negative prompt, and one line of `Name: value`."""
    return _text_with(request, short_hashes(request))


def parameters_without_hashes(request: Request) -> str:
    """The same without the hashes of files, for which none is read."""
    return _text_with(request, ShortHashes({}, None))


def _text_with(request: Request, hashes: ShortHashes) -> str:
    tags = "".join(f" {tag}" for lora in request.lora or () if (tag := _tag(lora)) is not None)
    lines = [f"{prompt}{tags}" for prompt in dict.fromkeys(request.prompts)]
    if request.negative_prompt:
        lines.append(f"{NEGATIVE} {request.negative_prompt}")
    values: dict[str, str] = {}
    said = request.values()  # a resolved one leaves out what changes nothing
    for item in declared(type(request)):
        if item.name in _COMPOSED:
            values |= _COMPOSED[item.name](request)
        elif item.a1111 is not None and item.name in said:
            value = getattr(request, item.name)
            values[item.a1111] = _NAMES[item.name](value) if item.name in _NAMES else _text(item, value)
    values |= {**hashes.values, "Version": f"mlxdiff {__version__}"}
    # Last and not quoted, as Civitai looks for it.
    last = [] if hashes.civitai is None else [f"Hashes: {hashes.civitai}"]
    lines.append(", ".join([*(f"{name}: {quoted(value)}" for name, value in values.items()), *last]))
    text = "\n".join(lines)
    # A reader takes one mark at the start for the file's, so that a prompt's own needs another before it.
    return BYTE_ORDER_MARK + text if text.startswith(BYTE_ORDER_MARK) else text


def parse_parameters(text: str, find_model: FindModel | None = None) -> Request:
    """The Request that a text of the web UI describes, one image; warns of what it says and mlxdiff cannot do.

    `find_model` gives the full reference of a model's bare name, or None. Raises RequestError where the text has no
    settings.
    """
    recipe = a1111.read(text, find_model)
    request = Request.from_dict(recipe.settings)
    for saying in sayings(recipe):
        warnings.warn(saying, MlxdiffWarning, stacklevel=2)
    return request


def _tag(lora: Lora) -> str | None:
    """As the web UI's prompts ask for a LoRA; None where its name would not be read back."""
    number = Number(-MAX_LORA_SCALE, MAX_LORA_SCALE).show
    scales = [number(lora.text_scale)] + ([] if lora.text is None else [number(lora.scale)])
    rank = [] if lora.rank is None else [f"dyn={lora.rank}"]
    return None if set(lora.name) & set(":<>=\n") else f"<lora:{':'.join([lora.name, *scales, *rank])}>"


def _text(item: Setting, value: Any) -> str:
    """As the setting's kind shows it; several values as a JSON list of such texts."""
    if not item.kind.many:
        return item.kind.show(value)
    return json.dumps([item.kind.show((one,)) for one in value], ensure_ascii=False)


def _model_name(reference: str) -> str:
    """The last part, as the web UI names a model by its file: folders are private."""
    return PurePath(reference).name.removesuffix(".safetensors")


def _hires_strength(request: Request) -> dict[str, str]:
    """A1111 has one strength, which is the second pass's where there is one and no picture to start from."""
    if request.hires_strength is None:
        return {}
    return {"Denoising strength" if request.strength is None else "Hires strength": f"{request.hires_strength}"}


def _prompt_syntax(request: Request) -> dict[str, str]:
    """Said where it is not the one that a reader takes for the program."""
    usual = PRESETS.get(request.compat or "", {}).get("prompt_syntax", "a1111")
    return {} if request.prompt_syntax in (None, usual) else {"Prompt syntax": request.prompt_syntax}


# What A1111 calls these, or writes for several fields at once; all else goes by its declaration.
_NAMES: dict[str, Callable[[Any], str]] = {
    "sampler": sampler_name,
    "schedule": schedule_name,
    "hires_sampler": sampler_name,
    "hires_schedule": schedule_name,
    "hires_upscaler": lambda name: UPSCALERS[name].a1111[0] if name in UPSCALERS else PurePath(name).name,
    "refiner": lambda name: _model_name(name).partition("@")[0],
    "rng": lambda name: str(RNG_NAMES.get(name, name)),
    "seed": lambda seed: str(seed[0] if isinstance(seed, tuple) else seed),
    "inpaint_fill": lambda fill: str({"noise": "latent noise", "blank": "latent nothing"}.get(fill, fill)),
    "inpaint_area": lambda area: {"whole": "Whole picture", "masked": "Only masked"}[area],
}
_COMPOSED: dict[str, Callable[[Request], dict[str, str]]] = {
    "n_images": lambda request: {} if request.batch_size == 1 else {"Batch size": str(request.batch_size)},
    "prompt_syntax": lambda request: _prompt_syntax(request),
    "hires_strength": lambda request: _hires_strength(request),
    "width": lambda request: {} if request.width is None else {"Size": f"{request.width}x{request.height}"},
    "model": lambda request: {} if request.model is None else {"Model": _model_name(request.model)},
}
