"""Pictures that are fetched later by their address: for a while, and as many as fit."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict

SECONDS = 3600.0
MOST, MOST_BYTES = 200, 256 * 2**20


class Kept:
    """Pictures by names that nobody can guess: 128 random bits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[str, tuple[float, bytes, str]] = OrderedDict()
        self._bytes = 0

    def keep(self, data: bytes, kind: str, suffix: str) -> str:
        """The name under which `data` is found; the oldest give way."""
        name = secrets.token_urlsafe(16) + suffix
        with self._lock:
            self._held[name] = time.monotonic(), data, kind
            self._bytes += len(data)
            while len(self._held) > 1 and (len(self._held) > MOST or self._bytes > MOST_BYTES or self._is_over()):
                self._bytes -= len(self._held.popitem(last=False)[1][1])
        return name

    def find(self, name: str) -> tuple[bytes, str] | None:
        """The bytes and their type; None where they are gone."""
        with self._lock:
            began, data, kind = self._held.get(name, (0.0, b"", ""))
            return (data, kind) if data and time.monotonic() - began < SECONDS else None

    def _is_over(self) -> bool:
        began, _, _ = next(iter(self._held.values()))
        return time.monotonic() - began >= SECONDS
