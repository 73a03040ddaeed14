"""What a text of any program asks for, before it is judged: settings, what could not be read, and what was not used.

A reader takes each thing out of its text once: into a setting (`take`), or as not used (`leave`). What is left
at the end counts as not used, so nothing in a text is ignored without a warning. Texts may be hostile.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..errors import RequestError
from ..printable import printable
from ..request import Request
from ..request.declarations import MAX_DIGITS, Setting, declared

FindModel = Callable[[str], str | None]
_SUFFIX = re.compile(r"\.(?:safetensors|ckpt|sft|gguf|pt|pth)$")
_BLANK = "\ufeff \t\r\n"
_LONGEST = 200  # characters of a value that is shown
_MOST_LORAS = 100
_MOST = 1000  # things that are kept as not used: a text of a megabyte has more


@dataclass(frozen=True)
class Remark:
    """What is said of one thing in the text, unless the user gives `setting` instead. `why` its value is no value."""

    problem: str
    remedy: str = ""
    setting: str | None = None
    why: str = ""


@dataclass(frozen=True)
class Recipe:
    """What a text asks for.

    program   who wrote it, as `read` calls it
    settings  Request's fields by name, each checked by itself
    unused    "Name: value" of all else that the text asks for
    lost      what the text says of a setting, and cannot be used
    hashes    of LoRAs by name, as far as the text has them
    """

    program: str
    settings: Mapping[str, Any]
    unused: tuple[Remark, ...] = ()
    lost: tuple[Remark, ...] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Gathering:
    """A recipe in the making."""

    program: str
    settings: dict[str, Any] = field(default_factory=dict)
    unused: list[Remark] = field(default_factory=list)
    lost: list[Remark] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)

    def take(self, setting: str, value: Any, name: str) -> None:
        """Sets a setting to what the text calls `name`: text as its kind parses it, or a value out of JSON.

        A value out of range is lost, and a name that no setting has is left.
        """
        item = by_name().get(setting)
        if item is None:
            self.leave(name, value)
            return
        if (_is_nothing(value) and not isinstance(value, bool | str)) or (value == "" and setting not in _TEXTS):
            return
        if isinstance(value, float) and item.kind.type is int and value.is_integer():
            value = int(value)
        if isinstance(value, str) and item.kind.type is int:
            value = re.sub(r"^(\s*\d{1,30})\.0{1,10}(\s*)$", r"\1\2", value)  # 20.000000
        try:
            self.settings[setting] = read_value(item, value)
        except RequestError as error:
            problem = f"The text says {name}: {shown(value)}, which is left out. {printable(error.problem)}"
            self.lost.append(Remark(problem, error.remedy, setting, printable(error.problem)))

    def leave(self, name: str, value: Any = "", setting: str | None = None) -> None:
        """Says that this was not used; nothing is said of what asks for nothing: none, no, an empty list."""
        if len(self.unused) < _MOST and (not _is_nothing(value) or value == ""):
            text = f"{name}: {shown(value)}" if value != "" else name
            self.unused.append(Remark(printable(text), "", setting))

    def lose(self, setting: str, problem: str, remedy: str) -> None:
        """Says that what the text has for a setting says too little."""
        self.lost.append(Remark(printable(problem), remedy, setting))

    def model(self, name: str, find: FindModel | None, hash: str = "") -> None:
        """The model of a bare name, where `find` knows its reference."""
        if not name and not hash:
            return
        name = _SUFFIX.sub("", name)
        found = find(name) if name and find is not None else None
        if found is not None:
            self.settings["model"] = found
            return
        what = f"called {shown(name)}" if name else f"with the hash {shown(hash)}"
        problem = f"The picture was made with a model {what}, which says too little to find it."
        self.lose("model", problem, "Name it with --model.")

    def lora(self, name: Any, scale: Any = 1.0, text: Any = None, hash: Any = "") -> None:
        """A LoRA by its file's name, at its scales: of the text encoders the same unless `text` says another."""
        called = _SUFFIX.sub("", re.split(r"[\\/]", name)[-1]) if isinstance(name, str) else ""
        values = {"ref": called, "scale": _as_number(scale), "text": _as_number(text)}
        if values["text"] == values["scale"]:
            values["text"] = None
        try:
            (one,) = by_name()["lora"].kind.check("lora", values)
        except RequestError:
            self.leave("LoRA", f"{name} ({shown(scale)})", "lora")
            return
        if len(self.settings.get("lora", ())) < _MOST_LORAS:
            self.settings["lora"] = (*self.settings.get("lora", ()), one)
        if isinstance(hash, str) and hash:
            self.hashes[called] = hash

    def preset(self, **settings: str) -> None:
        """Settings that all texts of the program mean, as far as there are such."""
        for name, value in settings.items():
            item = by_name().get(name)
            if item is not None and value in item.kind.describe().get("choices", ()):
                self.settings.setdefault(name, value)

    def recipe(self) -> Recipe:
        unused = tuple(dict.fromkeys(self.unused))
        return Recipe(self.program, self.settings, unused, tuple(self.lost), self.hashes)


def _as_number(value: Any) -> Any:
    """The number that a text means, as some programs write it; anything else as it is."""
    with suppress(ValueError, OverflowError):
        return float(value) if isinstance(value, str) and len(value) < 40 else value
    return value


_TEXTS = ("prompt", "negative_prompt")  # of which an empty one says something


def by_name() -> dict[str, Setting]:
    """Request's settings, which may be changed by a text: not what mlxdiff alone records."""
    return {item.name: item for item in declared(Request) if item.scope != "record"}


def read_value(item: Setting, value: Any) -> Any:
    """The setting's value that a text or a JSON value means; several are a JSON list. Raises RequestError."""
    if not isinstance(value, str):
        return item.kind.check(item.name, value)
    if item.kind.many and value.startswith("["):
        return item.kind.check(item.name, json_of(value))
    return item.kind.parse(item.name, value)


def take_all(gathering: Gathering, values: Mapping[str, Any], table: Mapping[str, str]) -> dict[str, Any]:
    """Takes what `table` (their name -> setting) lists, and gives back the rest."""
    for theirs, setting in table.items():
        if theirs in values:
            gathering.take(setting, values[theirs], theirs)
    return {name: value for name, value in values.items() if name not in table}


def leave_rest(gathering: Gathering, rest: Mapping[str, Any], absent: Mapping[str, Any]) -> None:
    """Names what is not used, except values equal to the program's default in `absent`; ... stands for any value."""
    for name, value in rest.items():
        if name not in absent or (absent[name] is not ... and absent[name] != value):
            gathering.leave(name, value)


def json_of(text: str) -> Any:
    """The value of a JSON text; raises RequestError."""
    try:
        return json.loads(text, parse_int=_whole_number)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"The text is not JSON ({type(error).__name__}).", "Check where it comes from.") from None


def object_of(text: Any) -> dict[str, Any] | None:
    """The JSON object in a text of anybody, with its texts made printable, or None."""
    if isinstance(text, str) and text.lstrip(_BLANK)[:1] == "{":
        with suppress(RequestError, RecursionError):
            value = json_of(text.strip(_BLANK))
            return _cleaned(value) if isinstance(value, dict) else None
    return None


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_cleaned(part) for part in value]
    return {printable(name): _cleaned(part) for name, part in value.items()} if isinstance(value, dict) else value


def shown(value: Any) -> str:
    """The value on one line, cut where it is long."""
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False, default=str)
    value = " ".join(value.split())
    return value if len(value) <= _LONGEST else f"{value[:_LONGEST]}..."


def _is_nothing(value: Any, depth: int = 4) -> bool:
    """None, no, an empty text, and what holds nothing else."""
    if isinstance(value, dict | list) and depth:
        return all(_is_nothing(part, depth - 1) for part in (value.values() if isinstance(value, dict) else value))
    return value is None or value is False or value == ""


def _whole_number(digits: str) -> int:
    """Python reads long numbers in quadratic time."""
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)
