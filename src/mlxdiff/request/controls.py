"""The setting `control`: a network, the picture that it sees, and how much it says. Knows no MLX, and opens no file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, replace
from typing import Any

from ..errors import RequestError
from .declarations import Choice, Flag, Number, Numbers, PartReference, Text, nearest, setting, shown
from .pictures import PictureSource

MAX_SCALE = 10.0
MAX_BLOCKS = 100

# How a control picture is made from what is given, and the numbers that may follow: (lowest, highest).
PREPROCESSING: dict[str, tuple[tuple[float, float], ...]] = {
    "none": (),
    "canny": ((0, 10_000), (0, 10_000)),
    "blur": ((0, 1000),),
    "resize": ((1, 1000),),
    "invert": (),
}

# Kinds of pictures that ControlNet-Union tells apart by number, in the order of its training; those with the same
# number look alike to it.
TYPES = {
    "openpose": 0,
    "depth": 1,
    "hed": 2,
    "pidi": 2,
    "scribble": 2,
    "ted": 2,
    "canny": 3,
    "lineart": 3,
    "anime_lineart": 3,
    "mlsd": 3,
    "normal": 4,
    "segment": 5,
    "tile": 6,
    "repaint": 7,
}
_ANY = Number(0, 10_000)
_NUMBERS = tuple(str(number) for number in range(16))


@dataclass(frozen=True)
class Preprocessing(Text):
    """A name, and numbers behind colons: canny:100:200."""

    def check(self, name: str, value: Any) -> str:
        text = super().check(name, value).strip().lower()
        method, numbers = parse_preprocessing(name, text)
        return ":".join([method, *map(_ANY.show, numbers)])

    def describe(self) -> dict[str, Any]:
        return {"type": "preprocessing", "choices": list(PREPROCESSING)}


@dataclass(frozen=True)
class Factors(Numbers):
    """Several numbers, as text between slashes: 0.2/0.6/1."""

    def parse(self, name: str, text: str) -> tuple[float, ...]:
        return super().parse(name, text.replace("/", ","))

    def show(self, value: Sequence[float]) -> str:
        return super().show(value).replace(",", "/")


def parse_preprocessing(name: str, text: str) -> tuple[str, tuple[float, ...]]:
    """The method and its numbers; raises RequestError."""
    method, *numbers = text.split(":")
    if method not in PREPROCESSING:
        raise RequestError(f"There is no {name} {shown(method)}.", nearest(method, tuple(PREPROCESSING)))
    ranges = PREPROCESSING[method]
    if len(numbers) > len(ranges):
        raise RequestError(
            f"{name} {shown(text)} has {len(numbers)} numbers.", f"{method} takes {len(ranges) or 'none'}, at most."
        )
    found = [Number(*both).parse(f"{name} {method}", each) for both, each in zip(ranges, numbers, strict=False)]
    return method, tuple(found)


def _find_type(text: str) -> str:
    found = text.strip().lower()
    if found not in TYPES and found not in _NUMBERS:
        raise RequestError(f"There is no type {shown(text)}.", nearest(found, tuple(TYPES)))
    return found


@dataclass(frozen=True)
class Control:
    """A ControlNet or T2I-Adapter with its picture.

    What a network adds is multiplied by `scale`, in the steps i of n for which start <= i / n and (i + 1) / n <= end.
    `blocks` are spread over its feature maps: two numbers are a ramp from the finest to the last.
    """

    ref: str = setting(PartReference("control"), "A hub id, a folder or a .safetensors file.", default=MISSING)
    image: Any = setting(PictureSource(), "The control picture.", default=MISSING)
    scale: float = setting(Number(0, MAX_SCALE), "How much it counts.", default=1.0, unset="1")
    start: float = setting(Number(0, 1), "Fraction of the steps before which it does nothing.", default=0.0, unset="0")
    end: float = setting(Number(0, 1), "Fraction of the steps after which it does nothing.", default=1.0, unset="1")
    preprocess: str | None = setting(
        Preprocessing(), "How the control picture is made from the picture.", unset="none: it is one"
    )
    type: str | None = setting(
        Choice(tuple(TYPES), _find_type), "What a ControlNet-Union sees in the picture.", unset="not a Union"
    )
    guess: bool = setting(
        Flag(), "Steer the prompt's branch alone, and deep feature maps more.", default=False, unset="false"
    )
    blocks: tuple[float, ...] | None = setting(
        Factors(0, MAX_SCALE, MAX_BLOCKS), "How much each feature map counts, the finest first.", unset="1"
    )

    def __post_init__(self) -> None:
        if self.start >= self.end:
            raise RequestError(
                f"The control {shown(self.ref)} starts at {self.start:g} and ends at {self.end:g} of the steps.",
                "Let it start before it ends, or leave it out.",
            )

    @property
    def preprocessing(self) -> tuple[str, tuple[float, ...]]:
        """The method and its numbers."""
        return parse_preprocessing("preprocess", self.preprocess or "none")

    def factors(self, n: int) -> list[float]:
        """By which n feature maps are multiplied, the finest first."""
        given = (1.0,) if self.blocks is None else self.blocks
        found = []
        for i in range(n):
            place = i * (len(given) - 1) / max(n - 1, 1)
            low = min(int(place), len(given) - 1)
            high = min(low + 1, len(given) - 1)
            found.append(self.scale * (given[low] + (given[high] - given[low]) * (place - low)))
        return found

    @property
    def type_number(self) -> int | None:
        """What a ControlNet-Union calls the type; None where none is given."""
        if self.type is None:
            return None
        return TYPES[self.type] if self.type in TYPES else int(self.type)


def prepared_alike(controls: Sequence[Control] | None, how: str | None) -> tuple[Control, ...] | None:
    """The controls, of which those that do not say how their picture is made have it made like that."""
    if how is None:
        return None if controls is None else tuple(controls)
    if not controls:
        raise RequestError("There is a control_preprocess but no control.", "Give one with --control, or leave it out.")
    return tuple(replace(one, preprocess=how) if one.preprocess is None else one for one in controls)
