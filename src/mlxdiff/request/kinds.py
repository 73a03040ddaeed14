"""The sorts of values that only requests have, and how each is checked, read from text and written down. Knows no MLX.

declarations.py has the sorts that any setting may have.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import catalogue
from ..errors import RequestError
from .declarations import Choice, PartReference, Text, Whole, nearest, shown

SAMPLERS = tuple(catalogue.SAMPLERS)
SCHEDULES = tuple(catalogue.SCHEDULES)
SAMPLER = Choice(SAMPLERS, lambda text: catalogue.find_sampler(text).name)
SCHEDULE = Choice(SCHEDULES, lambda text: catalogue.find_schedule(text).name)
MAX_SEED = 2**64 - 1
RANDOM_SEED = -1  # as A1111 and ComfyUI write "another one each time"
MAX_IMAGES = 100_000
MAX_SIDE = 65_536
MAX_STEPS = 1000
MAX_GUIDANCE_SCALE = 1e6


@dataclass(frozen=True)
class Prompts(Text):
    """A text, or several, of which each is an image of its own."""

    def check(self, name: str, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return super().check(name, value)
        if not value:
            raise RequestError("The list of prompts is empty.", "Give at least one prompt.")
        return tuple(super(Prompts, self).check(name, text) for text in value)

    def to_json(self, value: Any) -> Any:
        return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Seeds(Whole):
    """A seed, of which image i takes seed + i; or one for each image. -1 is none: one is drawn."""

    def check(self, name: str, value: Any) -> Any:
        if isinstance(value, int | float) and value == RANDOM_SEED:  # an array says of itself what == is
            return None
        if isinstance(value, list | tuple):
            return tuple(super(Seeds, self).check(name, seed) for seed in value)
        return super().check(name, value)

    def to_json(self, value: Any) -> Any:
        return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Size:
    """Pixels."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True)
class Sizes(Text):
    """WIDTHxHEIGHT in pixels, such as 512x768."""

    def check(self, name: str, value: Any) -> Any:
        if isinstance(value, Size):
            return value
        found = re.fullmatch(r"\s*([0-9]{1,5})\s*[x×]\s*([0-9]{1,5})\s*", value) if isinstance(value, str) else None
        if found is None or not all(8 <= int(side) <= MAX_SIDE for side in found.groups()):
            raise RequestError(
                f"{name} is {shown(value)}.",
                f"Write it as 512x768, width and height in pixels, each from 8 to {MAX_SIDE}.",
            )
        return Size(int(found[2]), int(found[1]))

    def to_json(self, value: Any) -> str:
        return str(value)

    def describe(self) -> dict[str, Any]:
        return {"type": "WIDTHxHEIGHT"}


@dataclass(frozen=True)
class BatchPlace:
    """A place in a batch of ComfyUI, counted from 0; without a count, an image that was taken out of its batch."""

    index: int
    count: int | None = None

    def __str__(self) -> str:
        return f"{self.index}" if self.count is None else f"{self.index}/{self.count}"


@dataclass(frozen=True)
class BatchPlaces(Text):
    """INDEX/COUNT, or INDEX alone; of several images one for each, None for one that has no others."""

    def check(self, name: str, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return tuple(None if place is None else self._one(name, place) for place in value)
        return self._one(name, value)

    def _one(self, name: str, value: Any) -> BatchPlace:
        if isinstance(value, BatchPlace):
            return value
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        found = re.fullmatch(r"\s*([0-9]{1,6})(?:/([0-9]{1,6}))?\s*", text) if isinstance(text, str) else None
        index, count = (None, None) if found is None else (int(found[1]), None if found[2] is None else int(found[2]))
        if index is None or not index < (MAX_IMAGES if count is None else min(count, MAX_IMAGES + 1)):
            raise RequestError(
                f"{name} is {shown(value)}.", "Write it as 2/4: the third of four images, which are counted from 0."
            )
        return BatchPlace(index, count)

    def to_json(self, value: Any) -> Any:
        return [None if place is None else str(place) for place in value] if isinstance(value, tuple) else str(value)

    def describe(self) -> dict[str, Any]:
        return {"type": "INDEX/COUNT"}


@dataclass(frozen=True)
class Margins:
    """Pixels at each side of a picture."""

    left: int
    top: int
    right: int
    bottom: int

    def __str__(self) -> str:
        return f"{self.left},{self.top},{self.right},{self.bottom}"


@dataclass(frozen=True)
class Sides(Text):
    """LEFT,TOP,RIGHT,BOTTOM in pixels, such as 64,0,64,0; one number is all four."""

    def check(self, name: str, value: Any) -> Any:
        if isinstance(value, Margins):
            return value
        if isinstance(value, list | tuple):
            value = ",".join(str(side) for side in value)
        value = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        pattern = r"\s*([0-9]{1,5})\s*(?:,\s*([0-9]{1,5})\s*,\s*([0-9]{1,5})\s*,\s*([0-9]{1,5})\s*)?"
        found = re.fullmatch(pattern, value) if isinstance(value, str) else None
        if found is None:
            raise RequestError(f"{name} is {shown(value)}.", "Write it as LEFT,TOP,RIGHT,BOTTOM in pixels: 64,0,64,0.")
        sides = [int(side or found[1]) for side in found.groups()]
        if not any(sides) or max(sides) > MAX_SIDE:
            raise RequestError(f"{name} is {shown(value)}.", f"Give 1 to {MAX_SIDE} pixels to one side at least.")
        return Margins(*sides)

    def to_json(self, value: Any) -> str:
        return str(value)

    def describe(self) -> dict[str, Any]:
        return {"type": "LEFT,TOP,RIGHT,BOTTOM"}


@dataclass(frozen=True)
class Upscalers(PartReference):
    """A way to enlarge by its name or A1111's, or the reference of a network that does."""

    def check(self, name: str, value: Any) -> str:
        value = super().check(name, value)
        known = catalogue.find_upscaler(value)
        return value if known is None else known.name

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(catalogue.UPSCALERS)

    def describe(self) -> dict[str, Any]:
        return {"type": "reference"}


@dataclass(frozen=True)
class Hashes(Text):
    """File -> SHA-256 of its content, in hexadecimal digits."""

    def check(self, name: str, value: Any) -> Any:
        pairs = value.items() if isinstance(value, Mapping) else value
        try:
            found = tuple(sorted((key, digest) for key, digest in pairs))
        except (TypeError, ValueError):
            raise RequestError(f"{name} is {shown(value)}.", "It maps files to SHA-256 hashes.") from None
        for key, digest in found:
            if not isinstance(key, str) or not isinstance(digest, str) or len(digest) != 64:
                raise RequestError(f"{name} has {shown(key)}: {shown(digest)}.", "It maps files to SHA-256 hashes.")
        return found

    def to_json(self, value: Any) -> dict[str, str]:
        return dict(value)

    def describe(self) -> dict[str, Any]:
        return {"type": "file hashes"}


def spelled(name: str, choices: tuple[str, ...], others: Mapping[str, str]) -> Choice:
    """A choice that A1111's words mean too."""

    def find(text: str) -> str:
        known = others.get(text.strip().lower(), text.strip().lower())
        if known not in choices:
            raise RequestError(f"There is no {name} {shown(text)}.", nearest(text, choices))
        return known

    return Choice(choices, find)
