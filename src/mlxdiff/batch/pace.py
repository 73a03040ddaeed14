"""How long pictures take on this machine, as runs have measured it: what is left is then known in advance.

What is alike takes as long: pictures of one model in one precision, and one size. Seconds are those of a step of one
picture, decoding included, so that another number of steps is foreseen too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ..request import Resolved

MAX_KINDS = 200  # that are remembered, the latest
NEW = 0.5  # weight of what was measured last
_ALIKE = ("model", "dtype", "quantize", "vae", "height", "width", "upscaler")
SLOWEST, LARGEST = 1e6, 2**50  # of what is believed: seconds a step, bytes


@dataclass(frozen=True)
class Measured:
    """seconds of a step of one picture; peak_memory in bytes, None where it was not seen."""

    seconds: float
    peak_memory: int | None = None


@dataclass
class Pace:
    """What was measured, by kind of picture; `changed` once there is something new."""

    kinds: dict[str, Measured] = field(default_factory=dict)
    changed: bool = False

    def learn(self, request: Resolved, seconds: float, peak_memory: int | None = None) -> None:
        """One picture of this request took so many seconds."""
        kind, each = _kind(request), seconds / max(1, request.n_steps)
        before = self.kinds.pop(kind, None)
        if before is not None:
            each = NEW * each + (1 - NEW) * before.seconds
            peak_memory = before.peak_memory if peak_memory is None else peak_memory
        self.kinds[kind] = Measured(each, peak_memory)
        self.changed = True

    def knows(self, request: Resolved) -> bool:
        return _kind(request) in self.kinds

    def seconds(self, request: Resolved) -> float | None:
        """Of one picture; None where nothing like it was rendered here."""
        known = self.kinds.get(_kind(request))
        return None if known is None else known.seconds * max(1, request.n_steps)

    def total(self, requests: Iterable[Resolved]) -> float | None:
        """Seconds of all of them; None where one is unknown."""
        each = [self.seconds(request) for request in requests]
        return None if None in each else sum(one for one in each if one is not None)

    def peak_memory(self, requests: Iterable[Resolved]) -> int | None:
        """The most that any of them takes, as far as it was seen."""
        known = (self.kinds.get(_kind(request)) for request in requests)
        return max((one.peak_memory for one in known if one is not None and one.peak_memory), default=None)

    def to_json(self) -> dict[str, Any]:
        latest = list(self.kinds.items())[-MAX_KINDS:]
        return {kind: {"seconds": one.seconds, "peak_memory": one.peak_memory} for kind, one in latest}

    @classmethod
    def from_json(cls, values: Any) -> Pace:
        """What is believable of it: a file that somebody damaged costs the estimate, and nothing else."""
        kinds: dict[str, Measured] = {}
        for kind, value in values.items() if isinstance(values, Mapping) else ():
            seconds = value.get("seconds") if isinstance(value, Mapping) else None
            peak = value.get("peak_memory") if isinstance(value, Mapping) else None
            if type(seconds) is float and 0 < seconds < SLOWEST:
                kinds[kind] = Measured(seconds, peak if type(peak) is int and 0 < peak < LARGEST else None)
        return cls(kinds)


def _kind(request: Resolved) -> str:
    parts = tuple(getattr(request, name) for name in _ALIKE)
    return _written(parts, request.final_size, request.guidance_scale != 1)


@lru_cache(maxsize=1000)
def _written(parts: tuple[Any, ...], final: tuple[int, int], guided: bool) -> str:
    values = dict(zip(_ALIKE, parts, strict=True))
    return json.dumps(values | {"final": final, "guided": guided}, sort_keys=True)
