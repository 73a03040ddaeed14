"""The grammar of dynamic prompts: a text with choices in it, taken apart. Knows no files and draws nothing.

    {red|green}           one of them; `{3::red|green}` is red three times of four
    {2$$a|b|c}            two of them in any order, with a comma between; `{1-2$$ and $$a|b|c}` one or two, with " and "
    {0.5-1.5}             a number, with as many decimals as are written
    __name__              a line of name.txt; `__folder/name__`, `__col*__`, `__**/name__`
    \\{ \\} \\|              these characters themselves

The form is that of the extension sd-dynamic-prompts; number ranges and backslashes are mlxdiff's own. A brace without a
partner is text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from ..errors import RequestError

MAX_DEPTH = 50  # braces in braces
JOINER = ","

_MARK = re.compile(r"\\[{}|]|\{|__")
_ESCAPED = re.compile(r"\\([{}|])")
_NAME = re.compile(r"__([^\s_{}|#$()][^{}|#$()\n]{0,200}?)__")
_WITH_VALUES = re.compile(r"__[^\s_{}|#$()][^{}|#$()\n]{0,200}?\([^)\n]{0,200}\)__")
_BOUNDS = re.compile(
    r"\s*(?:([0-9]{1,6})-([0-9]{1,6})|-([0-9]{1,6})|([0-9]{1,6})-|([0-9]{1,6}))\$\$(?:([^${}]{1,100})\$\$)?"
)
_WEIGHT = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})::")
_NUMBER = r"(-?[0-9]{1,9}(?:\.([0-9]{1,6}))?)"
_RANGE = re.compile(rf"\s*{_NUMBER}-{_NUMBER}\s*")
_SPECIAL = re.compile(r"\{[^{}]*\}|__[^\s_{}|#$()][^{}|#$()\n]{0,200}?(?:\([^)\n]{0,200}\))?__")


@dataclass(frozen=True)
class Wildcard:
    """A line of the files that `name` names."""

    name: str


@dataclass(frozen=True)
class Range:
    """A number from low to high, both in units of the last decimal."""

    low: int
    high: int
    decimals: int

    def show(self, value: int) -> str:
        return str(value) if self.decimals == 0 else f"{value / 10**self.decimals:.{self.decimals}f}"


@dataclass(frozen=True)
class Option:
    """One of a choice, and how often it is taken in proportion to the others."""

    parts: Parts
    weight: float = 1.0


@dataclass(frozen=True)
class Choice:
    """`low` to `high` of the options, or as many as there are, in any order."""

    options: tuple[Option, ...]
    low: int = 1
    high: int = 1
    joiner: str = JOINER


Part: TypeAlias = "str | Choice | Wildcard | Range"
Parts: TypeAlias = "tuple[Part, ...]"


def is_template(text: str) -> bool:
    """Whether the text has a choice or a wildcard in it."""
    return _SPECIAL.search(text) is not None


def first_mark(text: str) -> str | None:
    """What in the text would be expanded beyond doubt: a choice of several, or a wildcard."""
    found = next((mark[0] for mark in _SPECIAL.finditer(text) if mark[0][0] == "_" or "|" in mark[0]), None)
    return found if found is None or len(found) <= 40 else f"{found[:37]}..."


def wildcards_in(text: str) -> set[str]:
    """The names of the wildcards in a text, without taking it apart."""
    return {found[1].strip().removeprefix("~") for found in _NAME.finditer(text)}


def weighted(text: str) -> tuple[float, str]:
    """The weight in front of an option or of a line in a wildcard's file, and the rest."""
    found = _WEIGHT.match(text)
    return (1.0, text) if found is None else (float(found[1]), text[found.end() :])


@lru_cache(maxsize=256)
def parse(text: str) -> Parts:
    """The text taken apart; raises RequestError for what the grammar has and mlxdiff does not do."""
    return _Parser(text).parts(0, len(text), 0)


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._partner: dict[int, int] = {}  # of each brace that has one
        opened: list[int] = []
        for mark in re.finditer(r"\\[{}|]|[{}]", text):
            if mark[0] == "{":
                opened.append(mark.start())
            elif mark[0] == "}" and opened:
                self._partner[opened.pop()] = mark.start()

    def parts(self, start: int, end: int, depth: int) -> Parts:
        if depth > MAX_DEPTH:
            raise RequestError(f"braces are nested more than {MAX_DEPTH} deep.", "Use fewer.")
        found: list[Part] = []
        at = kept = start
        while (mark := _MARK.search(self._text, at, end)) is not None:
            part, stop = self._part(mark, end, depth)
            at = stop
            if part is not None:
                self._keep(found, self._text[kept : mark.start()])
                self._keep(found, part)
                kept = stop
        self._keep(found, self._text[kept:end])
        return tuple(found)

    @staticmethod
    def _keep(found: list[Part], part: Part) -> None:
        if isinstance(part, str):
            part = _ESCAPED.sub(r"\1", part)
        if part != "":
            found.append(part)

    def _part(self, mark: re.Match[str], end: int, depth: int) -> tuple[Part | None, int]:
        """The choice or wildcard that begins at the mark, and where it ends; None where it is text."""
        text, start = self._text, mark.start()
        if mark[0] == "__":
            return self._wildcard(start, end)
        close = self._partner.get(start)
        if mark[0] != "{" or close is None:
            return None, mark.end()
        before = text[start - 1] if start else ""
        if before in ("$", "%"):
            what = "Variables" if before == "$" else "Wrappers"
            raise RequestError(
                f"{what} ({before}{{...}}) are a part of dynamic prompts that there is not here.",
                "Write what they stand for, or put a backslash before the brace if it is text.",
            )
        return self._choice(start + 1, close, depth), close + 1

    def _wildcard(self, start: int, end: int) -> tuple[Part | None, int]:
        found = _NAME.match(self._text, start, end)
        if found is None:
            if _WITH_VALUES.match(self._text, start, end):
                raise RequestError(
                    "Wildcards with values, as __name(key=value)__, are a part of dynamic prompts that there is not"
                    " here.",
                    "Write what the line stands for.",
                )
            return None, start + 1
        _check_method(found[1])
        return Wildcard(found[1].strip().removeprefix("~")), found.end()

    def _choice(self, start: int, end: int, depth: int) -> Part:
        text = self._text
        inside = text[start:end]
        number = _RANGE.fullmatch(inside)
        if number is not None:
            return _range(number)
        if not inside.strip():
            return "\\{" + inside + "\\}"
        method = re.match(r"\s*[~!@]", inside)
        if method is not None and method[0].strip() != "~":
            _check_method(method[0].strip())
        start += method.end() if method else 0
        bounds = _BOUNDS.match(text, start, end)
        low = high = 1
        joiner = JOINER
        if bounds is not None:
            start = bounds.end()
            joiner = JOINER if bounds[6] is None else bounds[6]
        options = tuple(self._option(*span, depth) for span in self._spans(start, end))
        if bounds is not None:
            both = bounds[1] or bounds[4] or bounds[5], bounds[2] or bounds[3] or bounds[5]
            low, high = 1 if both[0] is None else int(both[0]), 10**6 if both[1] is None else int(both[1])
        return Choice(options, min(low, high), max(low, high), joiner)

    def _spans(self, start: int, end: int) -> list[tuple[int, int]]:
        """Where the options between two braces begin and end."""
        found, first, at = [], start, start
        while (mark := re.compile(r"\\[{}|]|[{|]").search(self._text, at, end)) is not None:
            at = mark.end()
            if mark[0] == "|":
                found.append((first, mark.start()))
                first = at
            elif mark[0] == "{":
                at = self._partner.get(mark.start(), mark.start()) + 1
        return [*found, (first, end)]

    def _option(self, start: int, end: int, depth: int) -> Option:
        found = _WEIGHT.match(self._text, start, end)
        weight = 1.0
        if found is not None:
            weight, start = float(found[1]), found.end()
        else:
            start += len(self._text[start:end]) - len(self._text[start:end].lstrip())
        return Option(self.parts(start, end, depth + 1), weight)


def _range(found: re.Match[str]) -> Range:
    decimals = max(len(found[2] or ""), len(found[4] or ""))
    ends = sorted(round(float(text) * 10**decimals) for text in (found[1], found[3]))
    return Range(ends[0], ends[1], decimals)


def _check_method(text: str) -> None:
    if text[0] in "!@":
        raise RequestError(
            f"A choice that begins with {text[0]} takes its options in turn, which there is not here.",
            "Leave the mark out: options are drawn from the seed. --wildcards-all takes every combination.",
        )
