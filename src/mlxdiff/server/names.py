"""What of this machine a request may name: models and parts that are here, by name; never a path, never a download.

What the operator gives `mlxdiff serve` may be anything; requests may repeat it.
"""

from __future__ import annotations

from pathlib import Path

from .. import hub, loras
from ..declarations import declared, shown
from ..errors import ModelNotFoundError, RequestError
from ..named_files import named_files
from ..request import Request
from ..text.syntax.a1111 import split_networks


class Names:
    """Of a server whose requests begin as `base`."""

    def __init__(self, base: Request) -> None:
        self.base = base
        self._given = {(file.setting, file.name) for file in named_files(base)}
        self.own = _title(base.model)

    def models(self) -> dict[str, str]:
        """Name -> reference of the models: the served one first, what is built in, and what is in the cache."""
        found = {self.own: self.base.model or hub.BUILT_IN, hub.BUILT_IN: hub.BUILT_IN}
        for model in hub.cached_models():
            if model.complete and not _is_here(model.reference):
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
    if not is_part or not is_name or _is_here(name):
        raise RequestError(
            f"{what} is named as {shown(name)}, which may be a path.",
            "Name a part that the server has by its name; pictures are sent in the request.",
        )


def _is_here(name: str) -> bool:
    """Whether a path of the server's own folder is called so, which would be taken first."""
    try:
        return Path(name).expanduser().exists() if name else False
    except (OSError, RuntimeError, ValueError):  # too long, of nobody, or no path at all
        return True


def _title(reference: str | None) -> str:
    """What clients call the served model: its reference, of a path the last part."""
    if reference is None:
        return hub.BUILT_IN
    return Path(reference).stem if _is_here(reference) and reference != hub.BUILT_IN else reference
