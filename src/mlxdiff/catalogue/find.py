"""A row from whatever name someone knows it by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from .. import spelling
from ..errors import RequestError
from .rows import Sampler, ScheduleRow
from .samplers import SAMPLERS
from .schedules import SCHEDULES

_LONGEST = 60  # letters of a name that is looked at; the longest known has 33
Row = TypeVar("Row", Sampler, ScheduleRow)


def find_sampler(text: str) -> Sampler:
    """The sampler that mlxdiff, A1111, ComfyUI or diffusers calls so, in any case, with any blanks, - and _.

    Raises RequestError, which names the nearest.
    """
    return _found("sampler", SAMPLERS, _sampler_names(), text)


def find_schedule(text: str) -> ScheduleRow:
    """The schedule of that name, as `find_sampler`."""
    return _found("schedule", SCHEDULES, _schedule_names(), text)


def split_sampler(text: str) -> tuple[Sampler, ScheduleRow | None]:
    """A1111's older names say both: "DPM++ 2M Karras" is dpmpp_2m on karras. Raises RequestError as `find_sampler`."""
    key = key_of(text)
    if key not in _sampler_names():
        for name in sorted(_schedule_names(), key=len, reverse=True):
            if key.endswith(name) and key[: -len(name)] in _sampler_names():
                return _sampler_names()[key[: -len(name)]], _schedule_names()[name]
    return find_sampler(text), None


def find_scheduler_class(name: str, config: Mapping[str, Any]) -> tuple[Sampler | None, bool]:
    """The sampler that a diffusers class with this config stands for, and whether it is that very solver.

    Where it is not, it is the nearest; None where the class has another noise schedule than Stable Diffusion's.
    """
    for row in SAMPLERS.values():
        for known in row.classes:
            if known.name == name and known.fits(config):
                return row, True
    for row in SAMPLERS.values():
        if name in row.nearest:
            return row, False
    return None, False


def key_of(text: str) -> str:
    """The same for all spellings of a name."""
    return re.sub(r"[\s_\-]+", "", text[:_LONGEST].casefold()).replace("+", "p")


def _named(rows: Mapping[str, Row]) -> dict[str, Row]:
    return {key_of(name): row for row in rows.values() for name in row.names}


@cache
def _sampler_names() -> dict[str, Sampler]:
    return _named(SAMPLERS)


@cache
def _schedule_names() -> dict[str, ScheduleRow]:
    return _named(SCHEDULES)


def _found(kind: str, rows: Mapping[str, Row], names: Mapping[str, Row], text: Any) -> Row:
    key = key_of(text) if isinstance(text, str) else ""
    if key in names and len(text) <= _LONGEST:
        return names[key]
    near = dict.fromkeys(names[each].name for each in spelling.nearest(key, names))
    raise RequestError(f"There is no {kind} {text!r}.", spelling.question([*near], f"Choose one of {', '.join(rows)}."))
