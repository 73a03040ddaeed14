"""Which name was meant by one that there is not. Every kind of name is asked for here, so that answers read alike."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

LONGEST = 200  # characters that are compared
SHORTEST = 3  # characters that say which word they begin


def nearest(name: str, known: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """Up to three known names of which `name` is the first words, else up to `count` that are spelt most like it.

    Where neither finds any, up to three that begin with `name` in the middle of a word, such as karras for karr.

    cutoff  of difflib's ratio: 1 is the same name, 0 has no letter in common
    """
    name, known = name[:LONGEST], list(known)
    words = [each for each in known if name and each.startswith((f"{name}-", f"{name}_"))]
    near = words[:3] or difflib.get_close_matches(name, known, count, cutoff)
    if near or len(name) < SHORTEST:
        return near
    return [each for each in known if each.startswith(name)][:3]


def question(names: Sequence[str], then: str = "") -> str:
    """ "Did you mean width?", "Did you mean steps, seed or size?"; nothing for no names. `then` follows in any case."""
    if not names:
        return then
    *most, last = names
    said = f"{', '.join(most)} or {last}" if most else last
    return f"Did you mean {said}? {then}".rstrip()
