"""What a condition may speak of: each setting as it is declared, a part of one (`lora.scale`), and facts of a file.

Whoever adds a setting adds its name here without a word. A name has several values where the picture has several: of
two LoRAs, of the seeds of a contact sheet; and none where the picture does not say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from .. import spelling
from ..recipes import PROGRAMS
from ..request import Request
from ..request.declarations import Choice, Kind, Setting, declared, setting_called
from ..request.structured import Structured
from .literals import DATE, NUMBER, TEXT
from .pictures import Picture

Values = Callable[[Picture], Iterable[Any]]


@dataclass(frozen=True)
class Name:
    """`type` is of every value; `find` gives the value that a text in another spelling means, or a RequestError."""

    name: str
    type: str
    values: Values
    find: Callable[[str], Any] | None = None
    help: str = ""


def _program(text: str) -> str:
    return Choice(PROGRAMS).check("program", text.strip().lower())


def _format(text: str) -> str:
    known = text.strip().upper()
    return "JPEG" if known == "JPG" else known


FACTS = (
    Name("path", TEXT, lambda picture: (str(picture.path),), help="the path, as it is printed"),
    Name("name", TEXT, lambda picture: (picture.path.name,), help="the file's name, without its folder"),
    Name("date", DATE, lambda picture: (picture.modified,), help="when the file was last changed"),
    Name("bytes", NUMBER, lambda picture: (picture.bytes,), help="the length of the file"),
    Name("format", TEXT, lambda picture: (picture.info.format,), _format, help="PNG, JPEG or WEBP"),
    Name("program", TEXT, lambda picture: _one(picture.program), _program, help="what wrote the settings"),
    Name("picture_width", NUMBER, lambda picture: _one(picture.info.size[0] or None), help="pixels of the file"),
    Name("picture_height", NUMBER, lambda picture: _one(picture.info.size[1] or None), help="pixels of the file"),
)
_BY_NAME = {fact.name: fact for fact in FACTS} | {"mtime": FACTS[2]}
SETTINGS = tuple(item for item in declared(Request) if item.scope != "record")


@lru_cache(maxsize=256)
def called(text: str) -> Name | None:
    """The name that is meant: of a fact, a setting, an option (`cfg`), or a part after a dot (`lora.scale`)."""
    fact = _BY_NAME.get(text.lower().replace("-", "_"))
    if fact is not None:
        return fact
    head, _, part = text.partition(".")
    item = setting_called(head, SETTINGS)
    if item is None:
        return None
    if not part:
        return _setting(item)
    parts = declared(item.kind.of) if isinstance(item.kind, Structured) else ()
    found = setting_called(part, parts)
    return None if found is None else _part(item, found)


def nearest(text: str) -> str:
    """The remedy for a name that there is not."""
    known = [*_BY_NAME, *(item.name for item in SETTINGS)]
    known += [f"{item.name}.{part}" for item in SETTINGS if isinstance(item.kind, Structured) for part in _keys(item)]
    near = spelling.nearest(text.lower().replace("-", "_"), known)
    listed = f"Settings are those of `mlxdiff info --settings`; facts of a file are {', '.join(_BY_NAME)}."
    return spelling.question(near, listed)


def _keys(item: Setting) -> list[str]:
    return [part.name for part in declared(item.kind.of)] if isinstance(item.kind, Structured) else []


def _setting(item: Setting) -> Name:
    kind = item.kind
    if isinstance(kind, Structured):  # by what comes first: the reference
        return _part(item, declared(kind.of)[0])
    if item.name == "seed":
        return Name(item.name, NUMBER, lambda picture: _one(picture.seeds()))
    return Name(item.name, _type(kind), lambda picture: _shown(kind, picture.setting(item.name)), _finder(item))


def _part(item: Setting, part: Setting) -> Name:
    def values(picture: Picture) -> Iterator[Any]:
        for one in picture.setting(item.name) or ():
            yield from _shown(part.kind, getattr(one, part.name))

    return Name(f"{item.name}.{part.name}", _type(part.kind), values, _finder(part))


def _type(kind: Kind) -> str:
    return NUMBER if kind.type in (int, float) or kind.describe()["type"] == "numbers" else TEXT


def _finder(item: Setting) -> Callable[[str], Any] | None:
    """Of a text, which may have other spellings: `DPM++ 2M`, `512 x 768`."""
    return None if _type(item.kind) == NUMBER else lambda text: item.kind.show(item.kind.parse(item.name, text))


def _one(value: Any) -> tuple[Any, ...]:
    return () if value is None else value if isinstance(value, tuple) else (value,)


def _shown(kind: Kind, value: Any) -> tuple[Any, ...]:
    """Numbers as they are, and all else as its option is written."""
    if _type(kind) == NUMBER:
        return _one(value)
    return tuple(one if isinstance(one, str) else kind.show(one) for one in _one(value))
