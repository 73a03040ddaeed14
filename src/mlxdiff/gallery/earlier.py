"""The thumbnails of a gallery that is written again: pictures that are as they were need not be decoded.

The file may be anybody's: what is not as blocks.py writes it is passed over, and what is taken is letters of base64.
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..files import open_regular
from .blocks import CLOSING, OPENING, is_base64

LONGEST_LINE = 2**26  # bytes; a block of 100 of the largest thumbnails is a third of it
_COLUMNS = 12

Key = tuple[str, int, int]
Found = tuple[tuple[int, int], str]


class Earlier:
    """By a picture's address, bytes and time of change: its (width, height) and its thumbnail.

    Only where each block stands is in memory, and one block: pictures come in much the same order again.
    """

    def __init__(self, path: Path, size: int) -> None:
        """Reads nothing of a page whose thumbnails have another size, or of what is no gallery."""
        self._path = path
        self._at: dict[int, tuple[int, int]] = {}  # a hash of the key -> where the line starts, its length
        self._lock = threading.Lock()
        self._held: tuple[int, dict[Key, Found]] = (-1, {})
        with suppress(OSError), open_regular(path) as stream:
            if not _is_alike(stream.read(2**16), size):
                return
            stream.seek(0)
            start = 0
            while line := stream.readline(LONGEST_LINE):
                for key in _read(line):
                    self._at[hash(key)] = (start, len(line))
                start += len(line)

    def find(self, address: str, n_bytes: int, modified: int) -> Found | None:
        """From any thread; None for a picture that is new or was changed."""
        key = (address, n_bytes, modified)
        place = self._at.get(hash(key))
        if place is None:
            return None
        start, length = place
        with self._lock:
            if self._held[0] != start:
                self._held = (-1, {})
                with suppress(OSError), self._path.open("rb") as stream:
                    stream.seek(start)
                    self._held = (start, _read(stream.read(length)))
            return self._held[1].get(key)


def mark(size: int) -> str:
    """What the head of a page says of its thumbnails."""
    return f'<meta name="mlxdiff-thumbnails" content="{size}">'


def _is_alike(head: bytes, size: int) -> bool:
    return mark(size).encode() in head


def _read(line: bytes) -> dict[Key, Found]:
    opening, closing = OPENING.encode(), CLOSING.encode()
    line = line.rstrip(b"\n")
    if not line.startswith(opening) or not line.endswith(closing):
        return {}
    try:
        rows = json.loads(line[len(opening) : -len(closing)])["rows"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return {}
    if not isinstance(rows, list):
        return {}
    return {(row[0], row[1], row[2]): ((row[3], row[4]), row[-1]) for row in rows if _is_row(row)}


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, list)
        and len(row) == _COLUMNS
        and isinstance(row[0], str)
        and all(type(number) is int and number >= 0 for number in row[1:5])
        and is_base64(row[-1])
    )
