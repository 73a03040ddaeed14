"""`--ip-adapter` as a value: an adapter's file, its pictures, where they count and how much. Knows no MLX."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass
from typing import Any

from ..errors import RequestError
from .declarations import Number, PartReference, setting, shown
from .pictures import MaskSource, PictureSources

MAX_SCALE = 10
BlockScales = tuple[tuple[str, float], ...]
"""(place, scale) in order of places: "mid", "down", "up"; a block, "up.0"; one of its attentions, "up.0.1". The
narrowest place counts, and what no place covers has a scale of 0."""

_PLACE = re.compile(r"mid|(down|up)(\.[0-9]{1,2}(\.[0-9]{1,2})?)?")
_FORMS = "Give one number, or places with numbers such as up.0.1:1+down.2:0.5."


@dataclass(frozen=True)
class Scale:
    """One number, or one for each of some of the UNet's blocks: `up.0.1:1+down.2:0.5`.

    In JSON and Python also an object, as mlxdiff writes it ({"up.0.1": 1}) or as diffusers' set_ip_adapter_scale takes
    it ({"up": {"block_0": [0, 1, 0]}}).
    """

    type = str
    many = False

    def check(self, name: str, value: Any) -> float | BlockScales:
        if isinstance(value, str):
            return self.parse(name, value)
        if isinstance(value, Mapping):
            value = tuple(_flat(name, value))
        if not isinstance(value, tuple):
            return _number(name, value)
        for item in value:
            if not isinstance(item, tuple) or len(item) != 2 or not _is_place(item[0]):
                raise RequestError(f"{name} is {shown(value)}.", _FORMS)
        if not value or len(dict(value)) != len(value):
            raise RequestError(f"{name} names {'a place twice' if value else 'no place'}.", _FORMS)
        return tuple(sorted((place, _number(f"{name} at {place}", scale)) for place, scale in value))

    def parse(self, name: str, text: str) -> float | BlockScales:
        if ":" not in text:
            return Number(-MAX_SCALE, MAX_SCALE).parse(name, text)
        pairs = [part.strip().partition(":") for part in text.split("+")]
        if any(not _is_place(place) for place, _, _ in pairs):
            raise RequestError(f"{name} is {shown(text)}.", _FORMS)
        kind = Number(-MAX_SCALE, MAX_SCALE)
        return self.check(name, tuple((place, kind.parse(f"{name} at {place}", scale)) for place, _, scale in pairs))

    def to_json(self, value: float | BlockScales) -> Any:
        return dict(value) if isinstance(value, tuple) else value

    def show(self, value: float | BlockScales) -> str:
        kind = Number(-MAX_SCALE, MAX_SCALE)
        if not isinstance(value, tuple):
            return kind.show(value)
        return "+".join(f"{place}:{kind.show(scale)}" for place, scale in value)

    def describe(self) -> dict[str, Any]:
        return {"type": "number, or numbers of blocks", "low": -MAX_SCALE, "high": MAX_SCALE}


@dataclass(frozen=True)
class IPAdapterSetting:
    """Pictures as a prompt: a file, one or several pictures that share it, and how it takes part."""

    ref: str = setting(PartReference("ip_adapter"), "A .safetensors file.", default=MISSING)
    image: tuple[Any, ...] = setting(PictureSources(), "A picture, or several with | between them.", default=MISSING)
    scale: float | BlockScales | None = setting(
        Scale(), "How much the pictures count: one number, or some for blocks (up.0.1:1+down.2:0.5).", unset="1"
    )
    mask: tuple[Any, ...] | None = setting(
        PictureSources(MaskSource()), "Where a picture counts: white, in a mask for each picture.", unset="everywhere"
    )
    start: float | None = setting(Number(0, 1), "Fraction of the steps at which it begins.", unset="0")
    end: float | None = setting(Number(0, 1), "Fraction of the steps at which it ends.", unset="1")
    encoder: str | None = setting(
        PartReference("image_encoder"), "Folder of its image encoder.", unset="image_encoder beside the file"
    )

    def __post_init__(self) -> None:
        if self.mask is not None and len(self.mask) != len(self.image):
            raise RequestError(
                f"The ip_adapter has {len(self.mask)} masks for {len(self.image)} pictures.",
                "Give one mask for each picture, or none.",
            )
        first, last = self.interval
        if first >= last:
            raise RequestError(
                f"The ip_adapter starts at {first:g} and ends at {last:g} of the steps.",
                "Let it start before it ends.",
            )

    @property
    def interval(self) -> tuple[float, float]:
        """Fractions of the steps between which it takes part: (0, 1) is all of them."""
        return (0.0 if self.start is None else self.start), (1.0 if self.end is None else self.end)

    def scale_at(self, path: str) -> float:
        """The scale at an attention, by its path as diffusers names it: up_blocks.0.attentions.1 and so on."""
        if self.scale is None:
            return 1.0
        if not isinstance(self.scale, tuple):
            return self.scale
        found = [(place, scale) for place, scale in self.scale if covers(place, path)]
        return max(found, key=lambda item: len(item[0]))[1] if found else 0.0


def covers(place: str, path: str) -> bool:
    """Whether an attention, by its path as diffusers names it, lies in a place."""
    kind, *numbers = place.split(".")
    inside = [f"{kind}_blocks" if kind != "mid" else "mid_block", *numbers[:1]]
    if len(numbers) == 2:
        inside += ["attentions", numbers[1]]
    return path.split(".")[: len(inside)] == inside


def _is_place(value: Any) -> bool:
    return isinstance(value, str) and _PLACE.fullmatch(value) is not None


def _number(name: str, value: Any) -> float:
    return Number(-MAX_SCALE, MAX_SCALE).check(name, value)


def _flat(name: str, values: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """(place, scale) of an object: mlxdiff's own, or one of nested objects and lists."""
    for key, value in values.items():
        place = f"{above}.{key.removeprefix('block_')}" if above and isinstance(key, str) else key
        if not _is_place(place):
            raise RequestError(f"{name} has no place {shown(key)}.", _FORMS)
        if isinstance(value, Mapping) and not above:
            yield from _flat(name, value, place)
        elif isinstance(value, list | tuple) and len(value) == 1:
            yield place, value[0]
        elif isinstance(value, list | tuple) and above:
            yield from ((f"{place}.{i}", scale) for i, scale in enumerate(value))
        else:
            yield place, value
