"""A picture as what can be said of it: facts of the file, and the settings that made it. No pixel is decoded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import presets
from ..declarations import declared
from ..errors import InputError, RequestError
from ..metadata import PictureInfo, read_made
from ..request import Lora, Request
from ..text.syntax.a1111 import split_networks

_DECLARED = {item.name: item for item in declared(Request)}


@dataclass(frozen=True)
class Picture:
    """One file: `info` is what it says, `modified` seconds since 1970, `bytes` its length."""

    path: Path
    info: PictureInfo
    modified: float
    bytes: int

    @cached_property
    def made(self) -> tuple[str | None, Mapping[str, Any]]:
        """The program that made it and its settings, as far as they are written and can be used."""
        if self.info.request is not None:
            request = self.info.request
            return "mlxdiff", {name: value for name in _DECLARED if (value := getattr(request, name)) is not None}
        if self.info.sheet is not None:
            return "mlxdiff", {}
        try:
            recipe = self.info.recipe()
        except RequestError:
            return None, {}
        if recipe is None:
            return None, {}
        tags = tuple(_tagged(recipe.settings.get("prompt")))
        loras = {"lora": (*recipe.settings.get("lora", ()), *tags)} if tags else {}
        return recipe.program, {**recipe.settings, **loras}

    def setting(self, name: str) -> Any:
        """A setting's value; None where it is missing. Where none is written and one changes nothing, it is that."""
        settings = self.made[1]
        value = settings.get(name)
        if value is not None or not settings:
            return value
        preset = presets.PRESETS[settings["compat"]].get(name) if "compat" in settings else None
        item = _DECLARED[name]
        return preset if preset is not None else item.default or None if item.neutral is None else item.neutral

    def seeds(self) -> Any:
        """Every seed, of a file that was made with several images."""
        request = self.info.request
        if request is not None and request.seed is not None and request.batch_size > 1:
            return request.seeds
        return self.setting("seed")


def _tagged(prompt: Any) -> Iterator[Lora]:
    """The LoRAs that A1111's tags in a prompt name, which a picture of mlxdiff's has as settings."""
    for tag in split_networks(prompt, ("lora", "lyco"))[1] if isinstance(prompt, str) else ():
        name, scale = (*tag.positional, "", "")[:2]
        with suppress(RequestError, ValueError):
            yield Lora(name.strip(), float(scale or 1))


def read(path: Path) -> Picture:
    """What the file says; raises InputError for what is no picture, nor a text with a picture's settings."""
    info = read_made(path)
    try:
        status = os.stat(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).", "Run the command again.") from None
    return Picture(path, info, status.st_mtime, status.st_size)
