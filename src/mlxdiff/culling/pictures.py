"""A picture as what can be said of it: facts of the file, and the settings that made it. No pixel is decoded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import InputError, RequestError
from ..metadata import PictureInfo, read_made
from ..recipes import Recipe
from ..request import Lora, Request, presets
from ..request.declarations import declared
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
    def program(self) -> str | None:
        """Which program wrote the settings; None where there are none that can be used."""
        if self.info.request is not None or self.info.sheet is not None:
            return "mlxdiff"
        return None if self._recipe is None else self._recipe.program

    @property
    def is_unusable(self) -> bool:
        """Whether there are words about how it was made, of which nothing can be used."""
        return self.program is None and (bool(self.info.notes) or self._problem is not None)

    def setting(self, name: str) -> Any:
        """A setting's value; None where it is missing. Where none is written and one changes nothing, it is that."""
        item = _DECLARED[name]
        if self.info.request is not None:
            value = getattr(self.info.request, name)
            return item.neutral if value is None else value
        if self.info.sheet is not None or self._recipe is None:
            return None
        settings = self._recipe.settings
        if name == "lora":
            return (*settings.get("lora", ()), *_tagged(settings.get("prompt"))) or None
        preset = presets.PRESETS.get(settings.get("compat", ""), {})
        values = (settings.get(name), preset.get(name), item.default or None, item.neutral)
        return next((value for value in values if value is not None), None)

    @property
    def _recipe(self) -> Recipe | None:
        return self._read[0]

    @property
    def _problem(self) -> RequestError | None:
        return self._read[1]

    @cached_property
    def _read(self) -> tuple[Recipe | None, RequestError | None]:
        """What another program's texts ask for, or why they cannot be used."""
        try:
            return self.info.recipe(str), None  # a model by its bare name
        except RequestError as error:
            return None, error

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
