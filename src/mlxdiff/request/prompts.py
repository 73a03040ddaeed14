"""Settings of what the prompt says, and of the files that it may name."""

from __future__ import annotations

from dataclasses import dataclass

from .adapters import Embedding, Lora
from .declarations import Choice, Text, Whole, setting
from .kinds import Prompts
from .structured import Structured

PROMPT_SYNTAXES = ("a1111", "comfyui", "compel", "plain")
MAX_CLIP_SKIP = 12


@dataclass(frozen=True)
class PromptSettings:
    """The prompt, how it is read, and what it may call by name."""

    prompt: str | tuple[str, ...] = setting(Prompts(), "What to draw.", group="Prompt", default="")
    negative_prompt: str | None = setting(
        Text(), "What to steer away from.", group="Prompt", unset="none", flags=("-n",)
    )
    prompt_syntax: str | None = setting(
        Choice(PROMPT_SYNTAXES),
        "How brackets and other marks in prompts are read.",
        group="Prompt",
        unset="a1111",
        a1111="Prompt syntax",
    )
    clip_skip: int | None = setting(
        Whole(1, MAX_CLIP_SKIP),
        "Layer of the text encoder that is used, counted from the last; 1 is the last.",
        group="Prompt",
        unset="1",
        neutral=1,
        a1111="Clip skip",
    )
    embedding: tuple[Embedding, ...] | None = setting(
        Structured(Embedding), "Textual inversion that prompts may name; repeatable.", group="Prompt", unset="none"
    )
    lora: tuple[Lora, ...] | None = setting(
        Structured(Lora),
        "LoRA to apply, with its scale, and that of its part for the text encoders; repeatable.",
        group="Adapters",
        unset="none",
    )
