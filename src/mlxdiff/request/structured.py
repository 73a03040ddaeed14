"""Settings that have parts of their own, such as `--lora REF,scale=0.8`: how they are typed, checked and written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from os import PathLike, fspath
from typing import Any

from ..errors import RequestError
from .declarations import declared, shown


@dataclass(frozen=True)
class Structured:
    """A tuple of values with parts, each written `REF[,key=value]...`, or `REF=IMAGE[,key=value]...`.

    `of` is a frozen dataclass whose fields are declared with `setting`: the first is REF, a second one without a
    default is IMAGE, and the others are the keys. In JSON and in Python such a value may also be an object.
    """

    of: type
    type = str
    many = True

    def check(self, name: str, value: Any) -> tuple[Any, ...]:
        values = value if isinstance(value, list | tuple) else (value,)
        return tuple(self._one(name, item) for item in values)

    def parse(self, name: str, text: str) -> tuple[Any, ...]:
        return (self._one(name, text),)

    def _one(self, name: str, value: Any) -> Any:
        if isinstance(value, self.of):
            value = vars(value)
        if isinstance(value, PathLike):
            value = fspath(value)
        values = self._read(name, value) if isinstance(value, str) else value
        if not isinstance(values, Mapping):
            raise RequestError(f"{name} is {shown(value)}.", f"Write it as {self.grammar()}, or give an object.")
        parts = {part.name: part for part in declared(self.of)}
        unknown = [key for key in values if key not in parts]
        if unknown:
            raise RequestError(f"{name} has no {shown(unknown[0])}.", f"It has {', '.join(parts)}.")
        needed = {key: values.get(key) for key in self._needed()}  # an array says of itself what == is
        missing = [key for key, part in needed.items() if part is None or (isinstance(part, str) and not part)]
        if missing:
            raise RequestError(f"{name} {shown(value)} has no {missing[0]}.", f"Write it as {self.grammar()}.")
        given = {key: item for key, item in values.items() if item is not None}
        return self.of(**{key: parts[key].kind.check(f"{name}'s {key}", item) for key, item in given.items()})

    def _read(self, name: str, text: str) -> dict[str, Any]:
        parts = {part.name: part for part in declared(self.of)}
        needed = self._needed()
        found: dict[str, Any] = {}
        while (tail := re.fullmatch(r"(.*),\s*(\w+)\s*=([^,=]*)", text, re.DOTALL)) is not None:
            text, key, value = tail.groups()
            if key not in parts or key in needed:
                keys = ", ".join(part for part in parts if part not in needed)
                raise RequestError(f"{name} {shown(f',{key}={value}')} has no meaning.", f"The keys are {keys}.")
            if key in found:
                raise RequestError(f"{name} has {key} twice.", "Leave one out.")
            found[key] = parts[key].kind.parse(f"{name}'s {key}", value)
        head = text.split("=", len(needed) - 1)
        return found | dict(zip(needed, (part.strip() for part in head), strict=False))

    def _needed(self) -> list[str]:
        """REF, and IMAGE if there is one: the fields without a default."""
        return [item.name for item in fields(self.of) if item.default is MISSING]

    def grammar(self) -> str:
        needed = self._needed()
        keys = [part.name for part in declared(self.of) if part.name not in needed]
        return "=".join(part.upper() for part in needed) + "".join(f"[,{key}=VALUE]" for key in keys)

    def to_json(self, value: Sequence[Any]) -> list[dict[str, Any]]:
        return [
            {
                part.name: part.kind.to_json(held)
                for part in declared(self.of)
                if (held := getattr(item, part.name)) is not None
            }
            for item in value
        ]

    def show(self, value: Sequence[Any]) -> str:
        return " ".join(self.show_one(item) for item in value)

    def show_one(self, item: Any) -> str:
        needed = self._needed()
        parts = {part.name: part for part in declared(self.of)}
        head = "=".join(parts[key].kind.show(getattr(item, key)) for key in needed)
        keys = [
            f",{part.name}={part.kind.show(getattr(item, part.name))}"
            for part in parts.values()
            if part.name not in needed and getattr(item, part.name) not in (None, part.default)
        ]
        return head + "".join(keys)

    def describe(self) -> dict[str, Any]:
        return {"type": self.grammar(), "keys": [part.name for part in declared(self.of)]}
