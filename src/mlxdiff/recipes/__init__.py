"""What other programs write into pictures, read into Request's settings: one file a program.

recipe    what a text asks for: settings, what was lost, what was not used
names     what programs call samplers, schedules and noise
infotext  the grammar of A1111's text; a1111 reads it
finish    a recipe, with what the user gives beside it, as a Request

`read` finds the program by what it left: the texts of a file, by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from ..errors import RequestError
from . import a1111, civitai, comfyui, drawthings, fooocus, invokeai, novelai, sdcpp, swarmui
from .comfyui import file_texts
from .finish import finished, sayings
from .recipe import FindModel, Recipe, object_of

Texts = Mapping[str, str]

__all__ = ["NAMES", "Recipe", "file_texts", "finished", "programs", "read", "sayings"]


def read(texts: Texts, find_model: FindModel | None = None) -> Recipe | None:
    """What the texts of a picture ask for, or None where no program's are among them.

    Raises RequestError where a program's text is there and cannot be used.
    """
    for reader in READERS:
        recipe = reader(texts, find_model)
        if recipe is not None:
            return recipe
    for name, (what, remedy) in _BARE.items():
        if name in texts:
            raise RequestError(f"It holds {what}.", remedy)
    return None


def programs(texts: Texts) -> list[str]:
    """The names of texts that a program may have written a recipe into, which most comments and XMP are not."""
    telling = [name for name in texts if name in _TELLING]
    if object_of(texts.get("Comment")) is not None:
        telling.append("Comment")
    return telling + [name for name in drawthings.NAMES if re.search("exif:UserComment|sdcpp:", texts.get(name, ""))]


def _a1111(texts: Texts, find_model: FindModel | None) -> Recipe | None:
    return a1111.read(texts["parameters"], find_model) if "parameters" in texts else None


PROGRAMS = (
    *("mlxdiff", "a1111", "forge", "comfyui", "invokeai", "novelai", "sd.cpp"),
    *("swarmui", "fooocus", "drawthings", "civitai"),
)
NAMES = ("parameters", "fooocus_scheme", *comfyui.NAMES, *invokeai.NAMES, *novelai.NAMES, *drawthings.NAMES)
_TELLING = ("parameters", *comfyui.NAMES, *invokeai.NAMES)
_BARE = {
    "prompt": (
        "a graph of ComfyUI in which no sampler is to be found",
        "Give a picture with its settings, or the options themselves.",
    ),
    "workflow": (
        "ComfyUI's workflow for its editor, without the graph that was run",
        "Export it for the API in ComfyUI (Export (API)), or give a picture that it made.",
    ),
}
# In this order: what a program writes beside A1111's text, so that others show it, says less than its own.
READERS: tuple[Callable[[Texts, FindModel | None], Recipe | None], ...] = (
    swarmui.read,
    fooocus.read,
    invokeai.read,
    novelai.read,
    drawthings.read,
    sdcpp.read,
    civitai.read,
    comfyui.read,
    _a1111,
)
