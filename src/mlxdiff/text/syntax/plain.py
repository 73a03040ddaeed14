"""Plain prompts: every character is text, and what does not fit into one chunk is cut, as diffusers does."""

from __future__ import annotations

from .prompt import Fragment, Part, Prompt, Run, one_entry


def parse(text: str, run: Run) -> Prompt:
    """One part, one entry, one fragment."""
    return Prompt((Part((one_entry(text, (Fragment(text),), run.calls),)),))
