"""The terminal's bell at the end of a run: it marks the tab or window that somebody is waiting for."""

from __future__ import annotations

import sys

from .output import verbosity

LONG = 60.0  # seconds; who waits for less is still looking
BELL = "\a"


def ring(asked: bool | None, seconds: float) -> None:
    """Rings where stderr is a terminal: if it was `asked`, or unasked after a run of so many seconds."""
    wanted = seconds > LONG and not verbosity.quiet if asked is None else asked
    if not wanted or verbosity.events or sys.stderr is None or not sys.stderr.isatty():
        return
    try:
        sys.stderr.write(BELL)
        sys.stderr.flush()
    except (OSError, ValueError):  # the terminal has gone
        pass
