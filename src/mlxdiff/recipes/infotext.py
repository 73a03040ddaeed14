"""The grammar of A1111's text: a prompt, a negative prompt, and `Name: value, Name: value`. Knows no settings.

A1111 wants the settings on the last line. People and other programs spread them over several, wrap them, and put lines
behind them; all of that is read. Of a name that stands there twice, the first one counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

BYTE_ORDER_MARK = "\ufeff"
NEGATIVE = "Negative prompt:"
# The web UI's own, less what it allows in front; a name is at most 60 letters, so that no text takes long.
_NAME = re.compile(r"\s*(\w[\w \-/.+]{0,60}):[ \t]*")
_STEPS = re.compile(r"\s*Steps:\s*\d", re.IGNORECASE)
_SEPARATORS = re.compile(r"[,\s]*")  # of which a hostile text may have half a million
_END = re.compile(r"[,\n]")
_DECODER = json.JSONDecoder(strict=False)
_ENOUGH = 3  # known names in a line that is one of settings
_MAX_FAILURES = 16  # of JSON in a line: each costs as much as the line is long
# Behind the settings the extension Dynamic Prompts keeps the prompts that it drew this one from, as they were.
_SOURCES = re.compile(r"(?:Negative )?Template:")


@dataclass
class Infotext:
    """A text taken apart: `values` by name in lower case with (name as written, value); `behind` is what is no pair."""

    prompt: str
    negative: str
    values: dict[str, tuple[str, str]] = field(default_factory=dict)
    behind: list[str] = field(default_factory=list)

    def pop(self, name: str) -> str:
        """Takes a value out; "" where there is none."""
        return self.values.pop(name, ("", ""))[1]


def split(text: str, known: Collection[str]) -> Infotext | None:
    """The text taken apart, or None where it has no settings. `known` are names in lower case that show settings."""
    lines = text.removeprefix(BYTE_ORDER_MARK).replace("\r\n", "\n").split("\n")
    lines = lines[: _sources(lines)]
    start = _start(lines, known)
    if start is None:
        return None
    found = Infotext(*_prompts(lines[:start]))
    for name, value in _pairs("\n".join(lines[start:])):
        if name:
            found.values.setdefault(name.lower(), (name, value))
        elif value:
            found.behind.append(value)
    return found


def quoted(value: str) -> str:
    """The value as the web UI writes it: as a JSON string where it would be ambiguous."""
    unsafe = any(mark in value for mark in ",:\n") or value.startswith('"') or value != value.strip()
    return json.dumps(value, ensure_ascii=False) if unsafe else value


def _sources(lines: list[str]) -> int:
    """The first line behind the settings that is a prompt's source."""
    steps = next((at for at, line in enumerate(lines) if _STEPS.match(line)), len(lines))
    return next((at for at in range(steps, len(lines)) if _SOURCES.match(lines[at])), len(lines))


def _start(lines: list[str], known: Collection[str]) -> int | None:
    """The first line of settings."""
    for at in range(len(lines) - 1, -1, -1):
        if lines[at].lstrip().startswith(NEGATIVE):
            break
        if _STEPS.match(lines[at]):
            return _upwards(lines, at, known)
    for at in range(len(lines) - 1, -1, -1):
        first = _NAME.match(lines[at])
        if first is None or first[1].lower() not in known:
            continue
        names = {name.lower() for name, _ in _pairs(lines[at])}
        if sum(name in known for name in names) >= _ENOUGH or "version" in names:
            return at
    return None


def _upwards(lines: list[str], at: int, known: Collection[str]) -> int:
    """Takes the lines above that hold nothing but settings that are known, where this one has few of them itself."""
    if sum(name.lower() in known for name, _ in _pairs(lines[at])) >= _ENOUGH:
        return at
    while at > 0 and (first := _NAME.match(lines[at - 1])) is not None and first[1].lower() in known:
        if not all(name.lower() in known for name, value in _pairs(lines[at - 1]) if name or value):
            break
        at -= 1
    return at


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """`Name: value` after `Name: value`, each read once; name "" for what is no pair.

    A value is a JSON string, list or object, or it ends at a comma or with its line.
    """
    at, failures = 0, 0
    while at < len(text):
        found = _NAME.match(text, at)
        start = at if found is None else found.end()
        end, value = start, None
        if failures < _MAX_FAILURES and text[start : start + 1] in ('"', "{", "["):
            try:
                value, end = _DECODER.raw_decode(text, start)
            except (ValueError, RecursionError):  # not JSON after all
                value, end, failures = None, start, failures + 1
        mark = _END.search(text, end)
        stop = len(text) if mark is None else mark.start()
        name = "" if found is None else found[1].strip()
        yield name, value if isinstance(value, str) else text[start:stop].strip()
        at = stop
        if (gap := _SEPARATORS.match(text, stop)) is not None:
            at = gap.end()


def _prompts(lines: list[str]) -> tuple[str, str]:
    first = next((at for at, line in enumerate(lines) if line.lstrip().startswith(NEGATIVE)), len(lines))
    negative = "\n".join(lines[first:]).lstrip().removeprefix(NEGATIVE).removeprefix(" ")
    return "\n".join(lines[:first]), negative
