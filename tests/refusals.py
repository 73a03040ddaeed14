"""What a call gives: its result, or the RequestError with which it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mlxdiff.errors import RequestError

Result = TypeVar("Result")


def outcome(call: Callable[[], Result]) -> Result | RequestError:
    try:
        return call()
    except RequestError as error:
        return error
