"""The keys of a scheduler_config.json, checked as they are read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..catalogue import SCHEDULES
from ..errors import CheckpointError, UnsupportedError

_RAMPS = {name: row.key for name, row in SCHEDULES.items() if row.key is not None}


class ConfigValues:
    """The keys of one config, None and absent alike. Raises CheckpointError, and UnsupportedError for a choice."""

    def __init__(self, values: Mapping[str, Any]):
        self._values = values

    def _bad(self, key: str, wanted: str) -> CheckpointError:
        return CheckpointError(
            f"The scheduler's {key} is {self._values[key]!r}, not {wanted}.", "Download the checkpoint again."
        )

    def whole(self, key: str, default: int, *, low: int, high: int) -> int:
        value = self._values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._bad(key, "a whole number")
        if key in self._values and not low <= value <= high:
            raise self._bad(key, f"from {low} to {high}")
        return value

    def number(self, key: str, default: float = 0.0, *, low: float = -math.inf, high: float = math.inf) -> float:
        value = self._values.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise self._bad(key, "a number" if low == -math.inf else f"a number from {low:g} to {high:g}")
        return float(value)

    def optional_number(self, key: str) -> float | None:
        if key not in self._values:
            return None
        value = self.number(key)
        if not 0 < value < math.inf:
            raise self._bad(key, "a positive number")
        return value

    def numbers(self, key: str) -> tuple[float, ...] | None:
        if key not in self._values:
            return None
        values = self._values[key]
        if not isinstance(values, list | tuple) or not all(isinstance(v, int | float) and 0 < v < 1 for v in values):
            raise self._bad(key, "a list of numbers between 0 and 1")
        return tuple(float(value) for value in values)

    def truth(self, key: str) -> bool:
        value = self._values.get(key, False)
        if not isinstance(value, bool):
            raise self._bad(key, "true or false")
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: str | None = None) -> str:
        value = self._values.get(key, default)
        if not isinstance(value, str):
            raise self._bad(key, "text")
        if value not in choices:
            raise UnsupportedError(
                f"The scheduler's {key} {value!r} is not implemented.", f"Known are {', '.join(choices)}."
            )
        return value

    def ramp(self) -> str | None:
        named = [ramp for ramp, key in _RAMPS.items() if self.truth(key)]
        if len(named) > 1:
            raise CheckpointError(
                f"The scheduler asks for {' and '.join(named)} sigmas at once.", "Choose one with the schedule option."
            )
        return named[0] if named else None

    def final_sigma(self) -> str:
        if "set_alpha_to_one" in self._values:
            return "zero" if self.truth("set_alpha_to_one") else "sigma_min"
        return self.choice("final_sigmas_type", ("zero", "sigma_min"), "zero")
