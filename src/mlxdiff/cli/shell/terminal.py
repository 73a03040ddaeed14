"""The terminal's mode: while a line is done, what is typed is kept for the next prompt and not shown among the bars."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

try:
    import termios
except ImportError:  # Windows
    termios = None

LOCAL_FLAGS = 3  # their place in what tcgetattr gives


class Terminal:
    """The terminal of stdin, with the mode that it is in now, to which `restore` brings it back."""

    def __init__(self) -> None:
        self._mode: list[object] | None = None
        if termios is not None:
            with suppress(termios.error, OSError, ValueError):  # a terminal that is gone
                self._mode = termios.tcgetattr(sys.stdin.fileno())

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Meanwhile the terminal shows nothing of what is typed."""
        if termios is not None and self._mode is not None:
            silent = [*self._mode]
            silent[LOCAL_FLAGS] &= ~termios.ECHO  # type: ignore[operator]
            self._set(silent)
        try:
            yield
        finally:
            self.restore()

    def restore(self) -> None:
        if self._mode is not None:
            self._set(self._mode)

    def _set(self, mode: list[object]) -> None:
        assert termios is not None
        with suppress(termios.error, OSError, ValueError):
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, mode)  # type: ignore[arg-type]
