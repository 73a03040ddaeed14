"""What a setting is: one declaration, from which everything that knows settings is derived. Knows no MLX.

A setting is declared once, as a field of `Request`:

    steps: int | None = setting(Whole(1, 1000), "Denoising steps.", group="Picture", a1111="Steps")

Its options on the command line, the check of its range, its field in a prompt file and in a picture's JSON, its name in
A1111's text, what `--vary` takes and the reference in docs/settings.md all come from that line. A kind knows how values
of one sort are checked, read from text, and written down.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import cache
from os import PathLike, fspath
from typing import Any, Protocol

from .. import spelling
from ..errors import RequestError

GROUPS = ("Model", "Prompt", "Picture", "From a picture", "Adapters", "Guidance", "Stages", "Speed")
MAX_DIGITS = 30  # of a whole number in text or JSON: no setting takes as many, and Python reads long ones slowly
_KEY = "setting"


class Kind(Protocol):
    """One sort of value. `many`: the setting holds a tuple of them, and its option may be given again."""

    type: type  # what the option is to the command line: int, float, bool or str
    many: bool

    def check(self, name: str, value: Any) -> Any:
        """The value in its one form; raises RequestError that names the setting."""
        ...

    def parse(self, name: str, text: str) -> Any:
        """The value that a text means: of an option, of `--vary`, of A1111's text. Raises RequestError."""
        ...

    def to_json(self, value: Any) -> Any: ...

    def show(self, value: Any) -> str:
        """The text that `parse` reads back, as short as it can be."""
        ...

    def describe(self) -> dict[str, Any]:
        """The facts for documentation: `type`, and `low`, `high`, `choices` or `keys` where there are any."""
        ...


@dataclass(frozen=True)
class _Plain:
    """What kinds of one plain value have in common."""

    many = False

    def to_json(self, value: Any) -> Any:
        return value

    def show(self, value: Any) -> str:
        return str(value)


@dataclass(frozen=True)
class Whole(_Plain):
    """A whole number from low to high."""

    low: int
    high: int
    type = int

    def check(self, name: str, value: Any) -> int:
        if not _is_whole(value) or not self.low <= value <= self.high:
            raise RequestError(f"{name} is {shown(value)}.", f"It is a whole number from {self.low} to {self.high}.")
        return value

    def parse(self, name: str, text: str) -> int:
        if not re.fullmatch(rf"\s*[+-]?[0-9]{{1,{MAX_DIGITS}}}\s*", text):
            raise RequestError(f"{name} is {shown(text)}.", f"It is a whole number from {self.low} to {self.high}.")
        return self.check(name, int(text))

    def describe(self) -> dict[str, Any]:
        return {"type": "whole number", "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Number(_Plain):
    """A number from low to high, a float whatever was given: 5, 5.0 and -0 are recorded as 5.0, 5.0 and 0.0."""

    low: float
    high: float
    type = float

    def check(self, name: str, value: Any) -> float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not self.low <= value <= self.high:  # also false for NaN; huge whole numbers do not overflow
            raise RequestError(f"{name} is {shown(value)}.", f"It is a number from {self.low:g} to {self.high:g}.")
        return float(value) if value else 0.0

    def parse(self, name: str, text: str) -> float:
        try:
            return self.check(name, float(text) if len(text) <= 400 else None)
        except ValueError as error:
            if isinstance(error, RequestError):
                raise
            raise RequestError(
                f"{name} is {shown(text)}.", f"It is a number from {self.low:g} to {self.high:g}."
            ) from None

    def show(self, value: float) -> str:
        return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else str(value)

    def describe(self) -> dict[str, Any]:
        return {"type": "number", "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Text(_Plain):
    """Any text."""

    type = str

    def check(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise RequestError(f"{name} is {type(value).__name__}, not text.", "Give a string.")
        return value

    def parse(self, name: str, text: str) -> str:
        return self.check(name, text)

    def describe(self) -> dict[str, Any]:
        return {"type": "text"}


@dataclass(frozen=True)
class Reference(Text):
    """A name, a hub id[@revision], a folder or a file; a Path in Python."""

    def check(self, name: str, value: Any) -> str:
        return super().check(name, fspath(value) if isinstance(value, PathLike) else value)

    def describe(self) -> dict[str, Any]:
        return {"type": "reference"}


@dataclass(frozen=True)
class PartReference(Reference):
    """A file or folder that a picture is made with besides its model: of a LoRA, an embedding, a ControlNet.

    part  what it is, one of part_kinds.KINDS: found on this disk by `hub.find_part`, recorded with its content
    """

    part: str

    @property
    def names(self) -> tuple[str, ...]:
        """Names that a kind knows without a file."""
        return ()

    def is_file(self, value: str) -> bool:
        """Whether the value is a reference at all."""
        return value not in self.names


@dataclass(frozen=True)
class Flag(_Plain):
    """Yes or no."""

    type = bool

    def check(self, name: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise RequestError(f"{name} is {shown(value)}.", "It is true or false.")
        return value

    def parse(self, name: str, text: str) -> bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        return self.check(name, words.get(text.strip().lower(), text))

    def show(self, value: bool) -> str:
        return "true" if value else "false"

    def describe(self) -> dict[str, Any]:
        return {"type": "true or false"}


@dataclass(frozen=True)
class Choice(_Plain):
    """One of a few names. `find` gives the name that a text in another spelling means; it raises RequestError."""

    choices: tuple[str, ...]
    find: Callable[[str], str] | None = None
    type = str

    def check(self, name: str, value: Any) -> str:
        if isinstance(value, str):
            if value in self.choices:
                return value
            if self.find is not None:
                return self.find(value)
        raise RequestError(f"There is no {name} {shown(value)}.", f"{nearest(value, self.choices)}")

    def parse(self, name: str, text: str) -> str:
        return self.check(name, text.strip())

    def describe(self) -> dict[str, Any]:
        return {"type": "choice", "choices": list(self.choices)}


@dataclass(frozen=True)
class WholeChoice(_Plain):
    """One of a few whole numbers."""

    choices: tuple[int, ...]
    unit: str
    type = int

    def check(self, name: str, value: Any) -> int:
        if not _is_whole(value) or value not in self.choices:
            raise RequestError(f"{name} is {shown(value)}.", f"It is {self._listed()} {self.unit}.")
        return value

    def parse(self, name: str, text: str) -> int:
        return self.check(name, int(text) if re.fullmatch(r"\s*[0-9]{1,9}\s*", text) else text)

    def _listed(self) -> str:
        return " or ".join(map(str, self.choices))

    def describe(self) -> dict[str, Any]:
        return {"type": "choice", "choices": list(self.choices)}


@dataclass(frozen=True)
class Numbers:
    """Several numbers, as text between commas: `14.6,7,2.5,0`."""

    low: float
    high: float
    longest: int
    type = str
    many = False

    def check(self, name: str, value: Any) -> tuple[float, ...]:
        if isinstance(value, str):
            return self.parse(name, value)
        if not isinstance(value, Sequence) or len(value) > self.longest:
            raise RequestError(f"{name} is {shown(value)}.", f"It is a list of at most {self.longest} numbers.")
        one = Number(self.low, self.high)
        return tuple(one.check(f"{name}[{i}]", number) for i, number in enumerate(value))

    def parse(self, name: str, text: str) -> tuple[float, ...]:
        parts = text.split(",")
        if len(parts) > self.longest:
            raise RequestError(f"{name} has {len(parts)} numbers.", f"At most {self.longest} are possible.")
        one = Number(self.low, self.high)
        return tuple(one.parse(f"{name}[{i}]", part) for i, part in enumerate(parts))

    def to_json(self, value: Sequence[float]) -> list[float]:
        return list(value)

    def show(self, value: Sequence[float]) -> str:
        return ",".join(Number(self.low, self.high).show(number) for number in value)

    def describe(self) -> dict[str, Any]:
        return {"type": "numbers", "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Setting:
    """One setting, as it was declared.

    name     the field of Request; the option is `--name` with dashes
    kind     which values it takes
    help     one line for people; `unset` ends it by saying what holds where the setting is not given
    group    the panel of `--help` and the section of docs/settings.md
    scope    `model` decides what is loaded, `picture` what is drawn, `record` is written by mlxdiff alone
    neutral  the value that changes nothing; None where the checkpoint or another setting decides
    default  what Request holds when the setting is not given
    flags    further names of the option, such as `--cfg` or `-n`
    a1111    its name in A1111's text, if it has one
    vary     whether a sweep may vary it
    """

    name: str
    kind: Kind
    help: str
    group: str
    scope: str = "picture"
    unset: str = ""
    neutral: Any = None
    default: Any = None
    flags: tuple[str, ...] = ()
    a1111: str | None = None
    vary: bool = True

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def long_help(self) -> str:
        return f"{self.help} Default: {self.unset}." if self.unset else self.help

    def describe(self) -> dict[str, Any]:
        """The declaration as data, for `mlxdiff.settings()` and `info --settings --json`."""
        return {
            "name": self.name,
            "option": self.option if self.scope != "record" else None,
            "flags": list(self.flags),
            **self.kind.describe(),
            "help": self.help,
            "default": self.neutral if self.default is None else self.default,
            "unset": self.unset or None,
            "group": self.group,
            "scope": self.scope,
            "vary": self.vary,
            "a1111": self.a1111,
        }


def setting(kind: Kind, help: str = "", *, group: str = "Picture", default: Any = None, **more: Any) -> Any:
    """A dataclass field that is a setting; `more` are Setting's other fields. MISSING as default: it must be given."""
    declaration = Setting("", kind, help, group, default=None if default is MISSING else default, **more)
    if default is MISSING:
        return field(metadata={_KEY: declaration})
    return field(default=default, metadata={_KEY: declaration})


@cache
def declared(of: type) -> tuple[Setting, ...]:
    """The settings that a dataclass declares, in their order."""
    assert is_dataclass(of)
    return tuple(replace(item.metadata[_KEY], name=item.name) for item in fields(of) if _KEY in item.metadata)


@cache
def neutral_of(of: type) -> Mapping[str, Any]:
    """The values that change nothing, by setting."""
    return {item.name: item.neutral for item in declared(of) if item.neutral is not None}


def setting_called(name: str, settings: Iterable[Setting]) -> Setting | None:
    """By its name, or by one of its options' without the dashes, as people type them: cfg, guidance-scale."""
    name = name.strip().replace("-", "_").lower()
    settings = tuple(settings)
    by_flag = {flag[2:].replace("-", "_"): item for item in settings for flag in item.flags if flag[:2] == "--"}
    return {**by_flag, **{item.name: item for item in settings}}.get(name)


def nearest(value: Any, choices: Sequence[str]) -> str:
    """The remedy for a name that is none of the choices."""
    near = spelling.nearest(value, choices) if isinstance(value, str) else []
    return spelling.question(near, f"Choose one of {', '.join(choices)}.")


def shown(value: Any) -> str:
    """The value in an error, cut where it is long; Python refuses to write whole numbers of over 4300 digits."""
    if isinstance(value, int) and abs(value) >= 10**60:
        return "a number of over 60 digits"
    text = repr(value[:80] if isinstance(value, str | bytes | list | tuple) else value)
    text = re.sub(r"\s*\n\s*", " ", text)  # an array's has several lines
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
