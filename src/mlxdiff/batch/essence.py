"""What a request asks for, in a form in which equal ones are equal: identities of jobs are made of it."""

from __future__ import annotations

import json
from typing import Any

from ..request import Request
from ..request.declarations import neutral_of


def essence(request: Request) -> dict[str, Any]:
    """What the request asks for, as JSON holds it: without contents of files, and without what changes nothing."""
    neutral = neutral_of(Request)
    values = {name: value for name, value in request.values().items() if neutral.get(name, ...) != value}
    values.pop("hashes", None)
    return values


def canonical(values: dict[str, Any]) -> str:
    """One text for equal values."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"))
