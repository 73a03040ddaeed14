"""What a request asks for, in a form in which equal ones are equal: identities of jobs are made of it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from itertools import combinations
from typing import Any

from ..request import Request
from ..request.declarations import neutral_of

MOST = 6  # numbers of which `earlier` takes one or two

Place = tuple[str | int, ...]


def essence(request: Request) -> dict[str, Any]:
    """What the request asks for, as JSON holds it: without contents of files, and without what changes nothing."""
    neutral = neutral_of(Request)
    values = {name: value for name, value in request.values().items() if neutral.get(name, ...) != value}
    values.pop("hashes", None)
    return values


def earlier(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """As mlxdiff 0.1 may have written the same: whole numbers as they were typed, guidance_scale 5 for 5.0.

    One of the numbers, two of them, or all: whoever types a 5 seldom types a 5.0 beside it.
    """
    numbers = list(_whole_in(values))
    if not numbers:
        return
    some = numbers[:MOST]
    for chosen in dict.fromkeys([(number,) for number in some] + list(combinations(some, 2)) + [tuple(numbers)]):
        yield _with_whole(values, chosen, ())


def _whole_in(value: Any, place: Place = ()) -> Iterator[Place]:
    """The places of floats that are whole numbers, in a value of JSON."""
    if isinstance(value, float):
        if value.is_integer():
            yield place
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _whole_in(item, (*place, key))


def _with_whole(value: Any, chosen: Collection[Place], place: Place) -> Any:
    if isinstance(value, dict):
        return {key: _with_whole(item, chosen, (*place, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_whole(item, chosen, (*place, i)) for i, item in enumerate(value)]
    return int(value) if place in chosen else value


def canonical(values: dict[str, Any]) -> str:
    """One text for equal values."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"))
