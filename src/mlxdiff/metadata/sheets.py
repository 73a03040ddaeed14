"""The metadata of a sheet: its sweep, or the pictures on it. No single request would make it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import __version__
from ..errors import MlxdiffError, RequestError
from ..request import Request
from ..request.declarations import declared, setting_called
from ..request.option_texts import option_texts

SWEEP, SHEET = "mlxdiff-sweep", "mlxdiff-sheet"
_MAX_JSON = 2**20
_MAX_CELLS = 10_000


@dataclass(frozen=True)
class Sheet:
    """A sweep of `request` over `vary` (as typed: "steps=10,20"), or a contact sheet of the files called `names`."""

    request: Request | None = None
    vary: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def described(self) -> str:
        if self.vary:
            return f"a sweep of {' and '.join(self.vary)}"
        return f"a contact sheet of {len(self.names)} pictures"

    @property
    def remedy(self) -> str:
        """What makes it again, or what of it can be made again."""
        if self.vary:
            return f"Make the sheet again with `{self.command}`, or one of its pictures by giving what it varies."
        return f"Name one of its pictures: {', '.join(self.names[:20])}{', ...' if len(self.names) > 20 else ''}."

    @property
    def command(self) -> str:
        """The command line that makes a sweep again."""
        return shlex.join(["mlxdiff", *self.words])

    @property
    def words(self) -> list[str]:
        """The words of that command line, without the program's name."""
        found = ["grid"]
        for text in self.vary:
            found += ["--vary", text]
        for item, text in () if self.request is None else option_texts(self.request):
            found += [item.option, text]
        return [*found, "-o", "sheet.png"]

    def single(self, given: Mapping[str, Any]) -> Request | None:
        """The request of one cell of a sweep: where everything that it varies is given."""
        names = (text.partition("=")[0].partition(".")[0] for text in self.vary)  # lora.scale is a part of lora
        varied = [setting_called(name, declared(Request)) for name in names]
        if self.request is None or not varied or not all(item and item.name in given for item in varied):
            return None
        return Request.from_dict({**_values(self.request), **given})


def sweep_text(request: Request, vary: Sequence[str]) -> dict[str, str]:
    """The texts to write into the sheet of a sweep: the request without what is varied, and --vary as typed."""
    described = json.dumps({"request": request.values(), "vary": list(vary)}, sort_keys=True)
    return {SWEEP: described, "Software": f"mlxdiff {__version__}"}


def sheet_text(names: Iterable[str]) -> dict[str, str]:
    """The texts to write into a contact sheet of these files, whose names alone are kept."""
    return {SHEET: json.dumps({"pictures": list(names)}), "Software": f"mlxdiff {__version__}"}


def read_sheet(texts: Mapping[str, str]) -> Sheet | None:
    """The sheet that a picture's texts describe, or None. Raises RequestError where they cannot be used."""
    for name in (SWEEP, SHEET):
        if name in texts:
            return _read(texts[name])
    return None


def _read(text: str) -> Sheet:
    wrong = RequestError("The metadata of the sheet cannot be used.", "Make it again.")
    if len(text) > _MAX_JSON:
        raise wrong
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise wrong from None
    if not isinstance(values, dict):
        raise wrong
    vary, names, request = (values.get(name) for name in ("vary", "pictures", "request"))
    if not _are_texts(vary) or not _are_texts(names) or not (vary or names):
        raise wrong
    try:
        made = Request.from_dict(request) if isinstance(request, dict) else None
    except (MlxdiffError, TypeError):
        raise wrong from None
    return Sheet(made, tuple(vary or ()), tuple(names or ()))


def _are_texts(value: Any) -> bool:
    return value is None or (
        isinstance(value, list) and len(value) <= _MAX_CELLS and all(isinstance(item, str) for item in value)
    )


def _values(request: Request) -> dict[str, Any]:
    return {item.name: value for item in declared(Request) if (value := getattr(request, item.name)) is not None}
