"""What holds for later lines, as a value: a change makes another one, and `/undo` goes back to the one before."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ...batch.named_options import find, read_pairs, unquoted
from ...batch.prompts import changed
from ...request import Request
from ...request.declarations import Reference, Setting
from ...request.pictures import PictureSource
from ...request.structured import Structured
from ..declared import default_of, settings_of
from ..listing import ordered

SETTINGS = tuple(ordered([item for item in settings_of() if item.name != "prompt"]))  # a line is the prompt
DEFAULT = "default"
_UNSET = {"none", "off", "random"}  # where a declaration says that this holds unset, it is a value that unsets


@dataclass(frozen=True)
class State:
    """`request` holds the settings; `output` is --output's text; `wildcards` the folder of __name__."""

    request: Request
    output: str | None = None
    wildcards: Path | None = None
    preview: bool = False

    def with_settings(self, values: Mapping[str, Any]) -> State:
        """Raises RequestError for values that do not go together."""
        return replace(self, request=changed(self.request, values))


def typed_name(item: Setting) -> str:
    """A setting's name as it is typed: guidance-scale."""
    return item.option[2:]


def setting_named(name: str) -> Setting | None:
    """The setting that a command's name means: its own, one of its options', or A1111's."""
    item = find(name)
    return item if item is not None and item in SETTINGS else None


def unsets(item: Setting, text: str) -> bool:
    """Whether a value says that the setting is not to be set: `default`, or what its declaration calls unset."""
    word = text.strip().lower()
    choices = item.kind.describe().get("choices", ())
    return word == DEFAULT or (word in _UNSET & set(re.findall(r"\w+", item.unset)) and word not in choices)


def given_value(request: Request, item: Setting, text: str) -> dict[str, Any]:
    """The settings of `/NAME TEXT`; a setting that may be given again keeps the others. Raises RequestError."""
    if unsets(item, text):
        return unset(item)
    values = read_pairs([(item.name, _at_home(item, unquoted(text.strip())))], "The command", "/")
    if not values:  # -1 is no seed
        return unset(item)
    if item.kind.many:
        values[item.name] = _together(getattr(request, item.name) or (), values[item.name])
    return values


def _at_home(item: Setting, text: str) -> str:
    """A path with the user's folder for ~, which on the command line the system's shell puts there."""
    if isinstance(item.kind, Structured):
        return re.sub(r"(^|=)(~/[^=,]*)", lambda found: found[1] + os.path.expanduser(found[2]), text)
    return os.path.expanduser(text) if isinstance(item.kind, Reference | PictureSource) else text


def unset(item: Setting) -> dict[str, Any]:
    return {item.name: item.default}


def shown_value(request: Request, item: Setting) -> str | None:
    """A setting's value as it is typed; None where it is the default."""
    value = getattr(request, item.name)
    return None if value == item.default else item.kind.show(value)


def rows(state: State, *, shows: bool) -> list[tuple[str, str]]:
    """(name, value) of everything that is not as it is unasked; `shows` is whether a preview would be unasked."""
    found = [(typed_name(item), text) for item in SETTINGS if (text := shown_value(state.request, item)) is not None]
    others = (
        ("output", state.output),
        ("wildcards", None if state.wildcards is None else str(state.wildcards)),
        ("preview", None if state.preview == shows else _on(state.preview)),
    )
    return found + [(name, text) for name, text in others if text is not None]


def differences(before: State, after: State) -> list[tuple[str, str]]:
    """(name, value now) of everything that a change changed."""
    found = [
        (typed_name(item), shown_value(after.request, item) or default_of(item))
        for item in SETTINGS
        if getattr(before.request, item.name) != getattr(after.request, item.name)
    ]
    others = (
        ("output", before.output, after.output, after.output or "here, named after the prompt and the seed"),
        ("wildcards", before.wildcards, after.wildcards, str(after.wildcards or "none")),
        ("preview", before.preview, after.preview, _on(after.preview)),
    )
    return found + [(name, text) for name, was, now, text in others if was != now]


def _on(flag: bool) -> str:
    return "on" if flag else "off"


def _together(held: Sequence[Any], added: Sequence[Any]) -> tuple[Any, ...]:
    """The values of before and the new ones: one of the same reference, and picture, takes the place of the old."""
    heads = {_head(value): value for value in added}
    kept = tuple(heads.pop(_head(value), value) for value in held)
    return (*kept, *heads.values())


def _head(value: Any) -> tuple[str, ...]:
    return tuple(str(getattr(value, item.name)) for item in fields(value) if item.default is MISSING)
