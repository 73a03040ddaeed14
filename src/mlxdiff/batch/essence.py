"""What a request asks for, in a form in which equal ones are equal: identities of jobs are made of it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from itertools import combinations
from typing import Any

from ..request import Request
from ..request.declarations import neutral_of

MOST = 6  # numbers, and settings, of which `earlier` takes one or two

Place = tuple[str | int, ...]
Places = tuple[Place, ...]


def essence(request: Request) -> dict[str, Any]:
    """What the request asks for, as JSON holds it: without contents of files, and without what changes nothing."""
    neutral = neutral_of(Request)
    values = {name: value for name, value in request.values().items() if neutral.get(name, ...) != value}
    values.pop("hashes", None)
    return values


def earlier(values: dict[str, Any], given: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
    """As mlxdiff 0.1 may have written the same: whole numbers as they were typed, guidance_scale 5 for 5.0.

    One of the numbers or of the settings, two of them, those of the settings that are `given`, or all: whoever types a
    5 seldom types a 5.0 beside it, and what nobody typed stands there as the model has it.
    """
    numbers = list(_whole_in(values))
    if not numbers:
        return
    by_setting: dict[str | int, Places] = {}
    for number in numbers:
        by_setting[number[0]] = (*by_setting.get(number[0], ()), number)
    chosen: list[Places] = []
    for units in ([(number,) for number in numbers[:MOST]], list(by_setting.values())[:MOST]):
        chosen += units
        chosen += [(*one, *other) for one, other in combinations(units, 2)]
    if given is not None:
        chosen.append(tuple(number for number in numbers if number[0] in given))
    for places in dict.fromkeys([*chosen, tuple(numbers)]):
        if places:
            yield _with_whole(values, places, ())


def _whole_in(value: Any, place: Place = ()) -> Iterator[Place]:
    """The places of floats that are whole numbers, in a value of JSON; lists of numbers always held floats."""
    if isinstance(value, float):
        if value.is_integer():
            yield place
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _whole_in(item, (*place, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            if isinstance(item, dict | list):
                yield from _whole_in(item, (*place, i))


def _with_whole(value: Any, chosen: Collection[Place], place: Place) -> Any:
    if isinstance(value, dict):
        return {key: _with_whole(item, chosen, (*place, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_whole(item, chosen, (*place, i)) for i, item in enumerate(value)]
    return int(value) if place in chosen else value


def canonical(values: dict[str, Any]) -> str:
    """One text for equal values."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"))
