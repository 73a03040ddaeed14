"""`--lora` and `--embedding` as values: a file, and how it takes part. Knows no MLX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import PurePath
from typing import Any

from ..errors import RequestError
from .declarations import Number, PartReference, Text, Whole, setting, shown

MAX_LORA_SCALE = 100
MAX_LORA_RANK = 100_000


@dataclass(frozen=True)
class Embedding:
    """A textual inversion: a file, and its name in prompts if that is not the file's name or its token."""

    ref: str = setting(PartReference("embedding"), "A .safetensors file.", default=MISSING)
    token: str | None = setting(Text(), "Its name in prompts.", unset="the file's name, or the token in the file")


@dataclass(frozen=True)
class Blocks:
    """Block -> a strength, as text between semicolons: `IN04:0.5;OUT03:0`."""

    type = str
    many = False

    def check(self, name: str, value: Any) -> tuple[tuple[str, float], ...]:
        if isinstance(value, str):
            return self.parse(name, value)
        pairs = value.items() if isinstance(value, Mapping) else value
        one = Number(-MAX_LORA_SCALE, MAX_LORA_SCALE)
        try:
            return tuple((block.strip().upper(), one.check(f"{name}: {block[:20]}", scale)) for block, scale in pairs)
        except (TypeError, ValueError, AttributeError) as error:
            if isinstance(error, RequestError):
                raise
            raise RequestError(f"{name} is {shown(value)}.", "Write it as IN04:0.5;OUT03:0.") from None

    def parse(self, name: str, text: str) -> tuple[tuple[str, float], ...]:
        pairs = [part.partition(":") for part in text.split(";") if part.strip()]
        one = Number(-MAX_LORA_SCALE, MAX_LORA_SCALE)
        return self.check(name, [(block, one.parse(f"{name}: {block[:20]}", scale)) for block, _, scale in pairs])

    def to_json(self, value: Sequence[tuple[str, float]]) -> dict[str, float]:
        return dict(value)

    def show(self, value: Sequence[tuple[str, float]]) -> str:
        one = Number(-MAX_LORA_SCALE, MAX_LORA_SCALE)
        return ";".join(f"{block}:{one.show(scale)}" for block, scale in value)

    def describe(self) -> dict[str, Any]:
        return {"type": "BLOCK:STRENGTH;..."}


@dataclass(frozen=True)
class Lora:
    """A LoRA, or an adapter of another form: a file, and how strongly it works."""

    ref: str = setting(PartReference("lora"), "A .safetensors file, its folder, or the name of one.", default=MISSING)
    scale: float = setting(
        Number(-MAX_LORA_SCALE, MAX_LORA_SCALE), "How strongly it works; 0 is not at all.", default=1.0
    )
    text: float | None = setting(
        Number(-MAX_LORA_SCALE, MAX_LORA_SCALE), "How strongly it works in the text encoders.", unset="the scale"
    )
    rank: int | None = setting(
        Whole(1, MAX_LORA_RANK), "How many of its directions are used, the first ones.", unset="all"
    )
    blocks: Any = setting(Blocks(), "A further strength of blocks of the UNet: IN04:0.5;OUT03:0.", unset="1 each")

    @property
    def text_scale(self) -> float:
        return self.scale if self.text is None else self.text

    @property
    def name(self) -> str:
        """What A1111's tags call it: the file's name without folder and ending."""
        return PurePath(self.ref).name.removesuffix(".safetensors")
