"""What a value means beside a name: numbers beside numbers, text beside text, days beside dates."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..request.declarations import shown

NUMBER, TEXT, DATE = "number", "text", "date"
MAX_PATTERN = 1000  # characters of a pattern: matching takes its length times the text's
_MOMENT = re.compile(r"\s*(\d{4})-(\d{1,2})(?:-(\d{1,2})(?:[T ]\s*(\d{1,2}):(\d{2})(?::(\d{2}))?)?)?\s*", re.ASCII)


@dataclass(frozen=True)
class Span:
    """A day, or a month, minute or second, as seconds since 1970 from `start` until before `end`."""

    start: float
    end: float


def span(text: str) -> Span | None:
    """The time that a text means, in the time zone of this machine: '2026-11', '2026-11-26', '2026-11-26 18:30'."""
    found = _MOMENT.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second = (None if part is None else int(part) for part in found.groups())
    assert year is not None
    assert month is not None
    try:
        start = datetime(year, month, 1 if day is None else day, hour or 0, minute or 0, second or 0)
        if day is None:
            end = datetime(year + month // 12, month % 12 + 1, 1)
        else:
            lasts = {"days": 1} if hour is None else {"minutes": 1} if second is None else {"seconds": 1}
            end = start + timedelta(**lasts)
        return Span(start.timestamp(), end.timestamp())
    except (ValueError, OverflowError, OSError):
        return None


def plain(text: str) -> str:
    """The text in one form: an accent may be a letter's part or a letter of its own, and looks the same."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def folded(text: str) -> str:
    """`plain`, and without a difference between capitals and small letters."""
    return plain(plain(text).casefold())


class Like:
    """A pattern of SQL: % is any text, _ any character, and capitals are as small letters.

    Each stretch between two % is found at its first place, so that no text takes longer than its length times the
    pattern's, whatever both are.
    """

    def __init__(self, pattern: str) -> None:
        self._parts = [re.compile(_fixed(part), re.DOTALL) for part in folded(pattern).split("%")]
        self._lengths = [len(part) for part in folded(pattern).split("%")]

    def matches(self, text: str) -> bool:
        text = folded(text)
        first, last = self._parts[0], self._parts[-1]
        if len(self._parts) == 1:
            return first.fullmatch(text) is not None
        end = len(text) - self._lengths[-1]
        place = self._lengths[0]
        if place > end or first.match(text) is None or last.match(text, end) is None:
            return False
        for part in self._parts[1:-1]:
            found = part.search(text, place, end)
            if found is None:
                return False
            place = found.end()
        return True


def _fixed(part: str) -> str:
    return "".join("." if char == "_" else re.escape(char) for char in part)


def described(value: object) -> str:
    """A literal in an error."""
    return f"the text {shown(value)}" if isinstance(value, str) else f"the number {value}"
