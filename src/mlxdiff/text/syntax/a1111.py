r"""A1111's prompt syntax, apart from its schedules (a1111_schedules.py).

(text) [text] (text:1.3)   times 1.1, 1/1.1 or 1.3; round brackets multiply inside each other
BREAK                      a new chunk
a AND b :0.5               sub-prompts that are guided separately, here with the weights 1 and 0.5
<lora:NAME:0.8>            an extra network
\( \) \[ \] \\             the characters themselves; any other backslash disappears

An implementation of the rules of AUTOMATIC1111/stable-diffusion-webui 1.10.1, down to its sums in floating point.
Brackets that do not match are text. Each step is linear in the prompt; only nested brackets cost more, and those are
bounded.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

from ...errors import RequestError
from . import a1111_schedules
from .prompt import (
    LARGEST_WEIGHT,
    Break,
    Entry,
    Fragment,
    Network,
    Part,
    Piece,
    Prompt,
    Run,
    check_parts,
    check_text,
    one_entry,
)

ROUND, SQUARE = 1.1, 1 / 1.1
_MAX_WORK = 2_000_000  # multiplications: nested brackets multiply what they hold once each
_TOKEN = re.compile(r"\\([()\[\]\\]?)|([(\[])|:\s*([+-]?[.\d]+)\s*\)|([)\]])|[^\\()\[\]:]+|:")
_BREAK = re.compile(r"\bBREAK\b")
_AND = re.compile(r"\bAND\b")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?|\d*\.\d+)")
_NETWORK = re.compile(r"<(\w+):([^>]+)>")


def parse(text: str, run: Run, *, negative: bool = False, old_timelines: bool = False) -> Prompt:
    """A prompt as A1111 reads it for a run of so many network calls.

    negative       of a negative prompt, neither extra networks nor AND are read: both are text there
    old_timelines  A1111's option "old prompt editing timelines", which it sets for texts of versions before 1.6

    Raises RequestError for a weight such as `1.2.3`, and for prompts that are too long, too deeply nested or of too
    many parts.
    """
    check_text(text)
    rest, networks = (text, ()) if negative else split_networks(text)
    parts = ((rest, 1.0),) if negative else split_parts(rest)
    check_parts(len(parts))
    pieces = lru_cache(None)(attention)  # an alternation says the same thing again and again

    def entries(part: str) -> tuple[Entry, ...]:
        schedule = a1111_schedules.schedule(part, run, old_timelines=old_timelines)
        return tuple(one_entry(said, pieces(said), last) for last, said in schedule)

    read = lru_cache(None)(entries)
    return Prompt(tuple(Part(read(part), weight) for part, weight in parts), networks)


def split_networks(text: str, kinds: Collection[str] | None = None) -> tuple[str, tuple[Network, ...]]:
    """The prompt without its `<kind:arguments>`, and those: of all kinds, or of these alone."""
    networks: list[Network] = []

    def take(match: re.Match[str]) -> str:
        if kinds is not None and match[1] not in kinds:
            return match[0]
        items = match[2].split(":")
        # A name and one value; what has two equals signs is no pair.
        named = dict(item.split("=") for item in items if item.count("=") == 1)
        networks.append(Network(match[1], tuple(item for item in items if item.count("=") != 1), tuple(named.items())))
        return ""

    # Behind the last bracket nothing can match, and looking for it from every `<` would take quadratic time.
    end = text.rfind(">") + 1
    return _NETWORK.sub(take, text[:end]) + text[end:], tuple(networks)


def split_parts(text: str) -> tuple[tuple[str, float], ...]:
    """Sub-prompts and weights: the text between ANDs, less white space and `:NUMBER` at each one's end."""
    return tuple(_weighed(part) for part in _AND.split(text))


def _weighed(part: str) -> tuple[str, float]:
    head, colon, tail = part.rpartition(":")
    if colon and _NUMBER.fullmatch(tail.strip()):
        weight = float(tail.strip())
        if abs(weight) > LARGEST_WEIGHT:
            raise RequestError(f"The weight of {head[:40]!r} is {weight:.6g}.", "Write a number such as :0.5.")
        return head.rstrip(), weight
    return part.rstrip(), 1.0


@dataclass
class _Item:
    """Text with the weight it has so far."""

    text: str
    weight: float


def attention(text: str) -> tuple[Piece, ...]:
    """Fragments with their weights, and breaks. Neighbours of equal weight are joined; an empty text is one fragment.

    Inside brackets BREAK is a word, whose weight is negative: that is what A1111 makes of it.
    """
    items: list[_Item] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}
    work = 0

    def multiply(bracket: str, factor: float) -> None:
        nonlocal work
        start = opened[bracket].pop()
        work += len(items) - start
        if work > _MAX_WORK:
            raise RequestError("The prompt's brackets are nested too deeply.", "Remove some of them.")
        for item in items[start:]:
            item.weight *= factor

    for match in _TOKEN.finditer(text):
        escaped, opening, number, closing = match.groups()
        if escaped is not None:
            items.append(_Item(escaped, 1.0))
        elif opening:
            opened[opening].append(len(items))
        elif number and opened["("]:
            multiply("(", _weight(number))
        elif closing == ")" and opened["("]:
            multiply("(", ROUND)
        elif closing == "]" and opened["["]:
            multiply("[", SQUARE)
        else:
            items += _broken(match[0])
    for bracket, factor in (("(", ROUND), ("[", SQUARE)):
        # From the outermost on, which is the order of A1111's sums.
        opened[bracket].reverse()
        while opened[bracket]:
            multiply(bracket, factor)
    return _pieces(items)


def literal(text: str) -> tuple[Piece, ...]:
    """The whole text with weight 1: A1111's emphasis mode "None"."""
    return (Fragment(text),)


def _weight(number: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise RequestError(
            f"The weight {number[:40]!r} in the prompt is no number.", "Write one such as (red:1.2)."
        ) from None


def _broken(text: str) -> list[_Item]:
    """Text cut at the word BREAK, which takes the white space around it with it; -1 marks a break."""
    words = _BREAK.split(text)
    items: list[_Item] = []
    for index, word in enumerate(words):
        word = word if index == 0 else word.lstrip()
        word = word if index == len(words) - 1 else word.rstrip()
        items += [_Item("BREAK", -1.0), _Item(word, 1.0)] if index else [_Item(word, 1.0)]
    return items


def _pieces(items: list[_Item]) -> tuple[Piece, ...]:
    runs: list[tuple[list[str], float]] = []
    for item in items or [_Item("", 1.0)]:
        if runs and runs[-1][1] == item.weight:
            runs[-1][0].append(item.text)
        else:
            runs.append(([item.text], item.weight))
    joined = [("".join(texts), weight) for texts, weight in runs]
    return tuple(Break() if pair == ("BREAK", -1.0) else Fragment(*pair) for pair in joined)
