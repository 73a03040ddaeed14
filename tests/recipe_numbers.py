"""Numbers that A1111, ComfyUI, compel and torchsde gave; data/recipes/README.md says how."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from mlxdiff.text.syntax.prompt import Break, Piece

FOLDER = Path(__file__).parent / "data/recipes"


@cache
def _read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def prompts(key: str) -> Any:
    return _read("prompts")[key]


def noise(key: str) -> Any:
    return _read("noise")[key]


def lora(key: str) -> Any:
    return _read("lora")[key]


def samplers() -> dict[str, list[str]]:
    """A1111's samplers and the aliases that it takes for them."""
    return _read("samplers")


def as_lists(pieces: tuple[Piece, ...]) -> list[list]:
    """Pieces as A1111 and ComfyUI write them; numbers that are none as text."""
    weights = [-1 if isinstance(piece, Break) else piece.weight for piece in pieces]
    texts = ["BREAK" if isinstance(piece, Break) else piece.text for piece in pieces]
    return [[t, w if abs(w) < float("inf") else str(w)] for t, w in zip(texts, weights, strict=True)]


def run_lengths(values: tuple) -> list[list]:
    runs: list[list] = []
    for value in values:
        if runs and runs[-1][0] == value:
            runs[-1][1] += 1
        else:
            runs.append([value, 1])
    return runs
