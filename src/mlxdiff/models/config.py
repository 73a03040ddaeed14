"""Values out of a `config.json`, checked: a missing key takes the default, a wrong type or size is a CheckpointError.

Every reader takes the mapping, the key and the default; a `None` default means that the value may be null.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from ..errors import CheckpointError, UnsupportedError

T = TypeVar("T", bound=int | float | str)

# Beyond what any network has; what is within is checked against the weights' shapes.
MOST = 1_000_000
LARGEST, SMALLEST = 1e6, 1e-15


def whole(values: Mapping[str, Any], key: str, default: int, *, low: int = 1, high: int = MOST) -> int:
    """A whole number from `low` to `high`."""
    return _whole(key, values.get(key, default), low, high)


def wholes(
    values: Mapping[str, Any], key: str, default: tuple[int, ...], *, low: int = 1, high: int = MOST
) -> tuple[int, ...]:
    """A non-empty list of whole numbers from `low` to `high`."""
    return tuple(_whole(key, item, low, high) for item in _items(key, values.get(key, default)))


def number(values: Mapping[str, Any], key: str, default: float) -> float:
    """A number of a size that fp32 computes with: up to LARGEST."""
    return _number(key, values.get(key, default))


def positive(values: Mapping[str, Any], key: str, default: float, *, high: float = LARGEST) -> float:
    """A number from SMALLEST to `high`."""
    value = values.get(key, default)
    if not SMALLEST <= _number(key, value) <= high:
        raise _wrong(key, value, f"a number above 0 and up to {high:g}")
    return float(value)


def optional_number(values: Mapping[str, Any], key: str) -> float | None:
    """A number up to LARGEST, or None where the config has null or nothing."""
    return None if values.get(key) is None else _number(key, values[key])


def optional_numbers(values: Mapping[str, Any], key: str) -> tuple[float, ...] | None:
    """A non-empty list of numbers up to LARGEST, or None where the config has null or nothing."""
    return None if values.get(key) is None else tuple(_number(key, item) for item in _items(key, values[key]))


def flag(values: Mapping[str, Any], key: str, default: bool) -> bool:
    """True or false."""
    value = values.get(key, default)
    if not isinstance(value, bool):
        raise _wrong(key, value, "true or false")
    return value


def choice(values: Mapping[str, Any], key: str, default: T, supported: tuple[T, ...]) -> T:
    """One of the values that mlxdiff implements; UnsupportedError for another one of the same type."""
    return _choice(key, values.get(key, default), supported)


def choices(values: Mapping[str, Any], key: str, default: tuple[T, ...], supported: tuple[T, ...]) -> tuple[T, ...]:
    """A non-empty list of values that mlxdiff implements; UnsupportedError for another one of the same type."""
    return tuple(_choice(key, item, supported) for item in _items(key, values.get(key, default)))


def _whole(key: str, value: Any, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _wrong(key, value, f"a whole number from {low} to {high}")
    return value


def _number(key: str, value: Any) -> float:
    # NaN passes no comparison.
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= LARGEST:
        raise _wrong(key, value, f"a number from {-LARGEST:g} to {LARGEST:g}")
    return float(value)


def _items(key: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise _wrong(key, value, "a list with at least one item")
    return tuple(value)


def _choice(key: str, value: Any, supported: tuple[T, ...]) -> T:
    for candidate in supported:
        if type(value) is type(candidate) and value == candidate:
            return candidate
    if not isinstance(value, type(supported[0])):
        raise _wrong(key, value, f"one of {', '.join(map(repr, supported))}")
    raise UnsupportedError(
        f"The model's config has {key} = {value!r}, which mlxdiff does not implement.",
        f"Use a model with {' or '.join(map(repr, supported))}.",
    )


def _wrong(key: str, value: Any, expected: str) -> CheckpointError:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    return CheckpointError(
        f"The model's config has {key} = {shown}.", f"It should be {expected}; download the model again."
    )
