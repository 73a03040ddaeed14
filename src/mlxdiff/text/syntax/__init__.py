"""Prompts to what they say, when and how strongly; one file per program, and one value for all."""

from __future__ import annotations

from collections.abc import Callable

from . import a1111, comfyui, compel, plain
from .prompt import Prompt, Run

PARSERS: dict[str, Callable[[str, Run], Prompt]] = {
    "a1111": a1111.parse,
    "comfyui": comfyui.parse,
    "compel": compel.parse,
    "plain": plain.parse,
}
"""By the names of --prompt-syntax."""
