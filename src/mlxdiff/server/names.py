"""What of this machine a request may name: models and parts that are here, by name; never a path, never a download.

What the operator gives `mlxdiff serve` may be anything; requests may repeat it.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

from huggingface_hub import constants

from .. import hub, loras
from ..errors import ModelNotFoundError, RequestError
from ..named_files import named_files
from ..request import Request
from ..request.declarations import declared, shown
from ..text.syntax.a1111 import split_networks


class Names:
    """Of a server whose requests begin as `base`."""

    def __init__(self, base: Request) -> None:
        self.base = base
        self._given = {(file.setting, file.name) for file in named_files(base)}
        self.paths = {base.model, base.refiner, *(name for _, name in self._given)} - {None}
        self.own = _title(base.model)

    def only(self) -> AbstractContextManager[None]:
        """Within it, in this thread, what a request names is never read as a path, only what the operator gave is."""
        return hub.only_paths(self.paths)

    def called(self, reference: str | None) -> str | None:
        """The name under which `models` lists a model."""
        return next((name for name, known in self.models().items() if known == reference), reference)

    def told(self, text: str) -> str:
        """A text as clients may read it: of this machine's files their names, and not the folders they are in."""
        folders = {folder for kind in hub.KINDS for folder in hub.folders_of(kind)}
        folders |= {Path(path).parent for path in self.paths} | {Path(constants.HF_HUB_CACHE), hub.home(), Path.home()}
        for folder in sorted(map(str, folders), key=len, reverse=True):
            if len(folder) > 1:  # "." and "/"
                text = text.replace(f"{folder}{os.sep}", "")
        return text

    def models(self) -> dict[str, str]:
        """Name -> reference of the models: the served one first, what is built in, and what is in the cache."""
        found = {self.own: self.base.model or hub.BUILT_IN, hub.BUILT_IN: hub.BUILT_IN}
        for model in hub.cached_models():
            if model.complete:
                found.setdefault(model.reference, model.reference)
        return found

    def model(self, name: str) -> str | None:
        """The reference of a model by its name, a short one too, with or without A1111's hash behind it; None where it
        is not here."""
        name, here = name.split(" [")[0].strip(), self.models()
        return here.get(name, here.get(hub.spelled_out(name)))

    def with_model(self, name: str) -> dict[str, str | None]:
        """The settings that load a model by its name; raises ModelNotFoundError."""
        reference = self.model(name)
        if reference is None:
            raise ModelNotFoundError(
                f"There is no model {shown(name)} here.",
                "Choose one that the server lists; nothing is downloaded for a request.",
            )
        return {"model": reference, "revision": self.base.revision if reference == self.base.model else None}

    def check(self, request: Request) -> None:
        """Raises RequestError for a file that is named by a path: in a setting, or in a tag of a prompt."""
        for file in named_files(request):
            if file.held is None and (file.setting, file.name) not in self._given:
                _check(file.name, "A picture" if file.kind is None else file.setting, is_part=file.kind is not None)
        for item in declared(Request):
            value = getattr(request, item.name)
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str) and "<" in text:
                    for tag in split_networks(text, loras.KINDS)[1]:
                        _check(tag.positional[0].strip() if tag.positional else "", "A LoRA's tag", is_part=True)


def _check(name: str, what: str, *, is_part: bool) -> None:
    is_name = not any(mark in name for mark in "/\\") or hub.parse_reference(name) is not None
    if not is_part or not is_name:
        raise RequestError(
            f"{what} is named as {shown(name)}, which may be a path.",
            "Name a part that the server has by its name; pictures are sent in the request.",
        )


def _title(reference: str | None) -> str:
    """What clients call the served model: its reference, of a path the last part."""
    if reference is None or reference == hub.BUILT_IN:
        return hub.BUILT_IN
    return Path(reference).stem if hub.is_local(reference) else reference
