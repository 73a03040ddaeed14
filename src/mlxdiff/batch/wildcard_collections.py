"""Collections of wildcards: YAML and JSON files of names, in names of names, down to options.

    animals:
      pets: [cat, 3::dog, {text: hamster, weight: 0.5}]      # animals/pets
      wild: fox                                              # animals/wild, of one option

A file that is one list has its own name, without the ending. This is what the extension Dynamic Prompts reads; it
leaves out in silence what it cannot use, which is an error here, of the name that is asked for alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..errors import InputError
from . import wildcard_text
from .templates import weighted

SUFFIXES = (".yaml", ".yml", ".json")
MAX_BYTES = 2**24  # of a file
MAX_DEPTH = 50  # names in names
MAX_NAMES = 100_000  # of a file; YAML's aliases make many of few
_TEXTS = ("text", "content")
_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # all scalars are text: `yes` and 1990 are words of a prompt


class Named(NamedTuple):
    """What a file has under a name, which is examined when it is asked for."""

    path: Path
    name: str
    value: Any

    def lines(self) -> list[str]:
        """The options, as lines of a .txt file would have them. Raises InputError for one that is no text."""
        values = self.value if isinstance(self.value, list) else [self.value]
        return [self._line(value, number) for number, value in enumerate(values, 1) if value]

    def _line(self, value: Any, number: int) -> str:
        place = f"Option {number} of {self.name} in {self.path}"
        text = value
        if isinstance(value, dict) and any(isinstance(value.get(key), str) for key in _TEXTS):
            content = next(value[key] for key in _TEXTS if isinstance(value.get(key), str))
            text = f"{value.get('weight', 1)}::{content}"
            if weighted(text)[1] != content:
                raise InputError(f"{place} has a weight that is no number.", "Write it with digits and a point.")
        if not isinstance(text, str):
            raise InputError(f"{place} is no text.", "Put it in quotes, or write it as text and weight.")
        text = " ".join(text.split("\n")).strip()  # a prompt is one line
        wildcard_text.check(text, place)
        return text


def read(path: Path) -> dict[str, Named]:
    """What a file names. Raises InputError where it cannot be read or has too many names, too deep."""
    text = wildcard_text.read(path, MAX_BYTES)
    try:
        data = _json(text) if path.suffix.lower() == ".json" else yaml.load(text, _LOADER)
    except RecursionError:
        raise InputError(f"{path} has too many names in names.", "Use fewer.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = path if mark is None else f"{path}, line {mark.line + 1},"
        problem = getattr(error, "problem", None) or "it is not YAML"
        raise InputError(
            f"{place} cannot be read ({problem}).", "Put options with special characters in quotes."
        ) from None
    except ValueError as error:
        where = f", line {error.lineno}," if isinstance(error, json.JSONDecodeError) else ""
        raise InputError(f"{path}{where} cannot be read (it is not JSON).", "Check the file.") from None
    if isinstance(data, list):
        return {path.stem: Named(path, path.stem, data)}
    return {name: Named(path, name, value) for name, value in _walk(path, data)}


def _json(text: str) -> Any:
    return json.loads(text, parse_int=str, parse_float=str, parse_constant=str)


def _walk(path: Path, data: Any) -> Iterator[tuple[str, Any]]:
    """Names and values. Raises InputError for too many names, also without values: YAML's aliases multiply them."""
    left = [("", data, 0)]
    seen = 0
    while left:
        prefix, names, depth = left.pop()
        for name, value in names.items() if isinstance(names, dict) else ():
            seen += 1
            if seen > MAX_NAMES or depth > MAX_DEPTH:
                raise InputError(
                    f"{path} has more than {MAX_NAMES} names, or names more than {MAX_DEPTH} deep.",
                    "Cut the file in pieces.",
                )
            if isinstance(value, dict):
                left.append((f"{prefix}{name}/", value, depth + 1))
            elif value:
                yield f"{prefix}{name}", value
