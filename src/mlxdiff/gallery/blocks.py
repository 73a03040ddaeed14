"""Pictures as the page holds them: blocks of JSON, one a line, that nothing in a prompt or a name can break out of.

A block has `strings` that it adds to the page's table of them, and `rows`, one a picture:

    [address, bytes, modified, width, height, program, exact, settings, notes, command, written, thumbnail]

`program`, `notes`, `written` and the values of `settings` (a list of field, value, field, value, ...) are places in
that table; `command` is a list of words, or 0. Prompts that many pictures share are so written once.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..request import Request
from ..request.declarations import Setting, declared
from ..request.structured import Structured
from .entries import Entry

EACH = 100  # pictures in a block: about half a megabyte, so that the first ones are there while the others are read
OPENING, CLOSING = '<script type="application/json" class="block">', "</script>"


def address(path: Path, folder: Path) -> str:
    """The link from a page in `folder` to the file: relative, and of letters that mean nothing in HTML or to a browser.

    A name that is not UTF-8 keeps its bytes.
    """
    relative = os.path.relpath(_absolute(path), _absolute(folder))
    return "./" + quote(os.fsencode(relative.replace(os.sep, "/")), safe="/")


def json_text(value: Any) -> str:
    """The value as JSON in ASCII without a bracket that HTML would see."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e")


def fields() -> list[dict[str, Any]]:
    """What the page knows of each setting, from its declaration; their order is that of a row's settings."""
    return [_field(item) for item in settings()]


def settings() -> list[Setting]:
    return [item for item in declared(Request) if item.scope != "record"]


def _field(item: Setting) -> dict[str, Any]:
    described = {
        "name": item.name,
        "option": item.option,
        "other": [flag[2:].replace("-", "_") for flag in item.flags if flag.startswith("--")],
        "group": item.group,
        "number": item.kind.type in (int, float) and not item.kind.many,
        "many": item.kind.many,
    }
    if isinstance(item.kind, Structured):
        needed = {part.name for part in dataclass_fields(item.kind.of) if part.default is MISSING}
        described["heads"] = len(needed)
        described["parts"] = [_part(part) for part in declared(item.kind.of) if part.name not in needed]
    return described | _unasked(item)


def _part(part: Setting) -> dict[str, Any]:
    return {"name": part.name, "number": part.kind.type in (int, float)} | _unasked(part)


def _unasked(item: Setting) -> dict[str, str]:
    """What holds where nothing is said, if that is a value."""
    value = item.neutral if item.default is None else item.default
    return {} if value in (None, "") else {"unasked": item.kind.show(value)}


@dataclass
class Blocks:
    """Gathers pictures into blocks. `folder` is the page's."""

    folder: Path
    _places: dict[str, int] = field(default_factory=dict)
    _new: list[str] = field(default_factory=list)
    _rows: list[list[Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._fields: Mapping[str, int] = {item.name: i for i, item in enumerate(settings())}

    def add(self, entry: Entry, size: tuple[int, int], thumbnail: str) -> None:
        """A picture of (width, height) pixels; its thumbnail is WebP in base64."""
        pairs: list[int] = []
        for name, text in entry.settings:
            pairs += [self._fields[name], self._place(text)]
        row: list[Any] = [address(entry.path, self.folder), entry.n_bytes, entry.modified, *size]
        row.append(self._place("" if entry.program is None else entry.program))
        row += [int(entry.exact), pairs, [self._place(note) for note in entry.notes]]
        row += [list(entry.command) or 0, self._place(entry.written), thumbnail]
        self._rows.append(row)

    @property
    def is_full(self) -> bool:
        return len(self._rows) >= EACH

    def take(self) -> str:
        """What was added since the last time, as a line of the page; nothing where there is nothing."""
        if not self._rows:
            return ""
        text = json_text({"strings": self._new, "rows": self._rows})
        self._new, self._rows = [], []
        return f"{OPENING}{text}{CLOSING}\n"

    def _place(self, text: str) -> int:
        place = self._places.get(text)
        if place is None:
            place = self._places[text] = len(self._places)
            self._new.append(text)
        return place


def webp(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def is_base64(text: Any) -> bool:
    return isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", text) is not None


def _absolute(path: Path) -> str:
    """Browsers resolve `..` in the text of a link, the system in the tree: where there is one, links are followed."""
    return os.path.realpath(path) if ".." in path.parts else os.path.abspath(path)
