"""Fair times: what is compared takes turns, so that a busy moment hits all, and medians are printed."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

MOST_CALLS = 50  # in one turn
PAUSE = 0.05  # seconds between turns; idle threads of a BLAS spin for a while and would slow the next one down


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def seconds_of_process(command: Sequence[str]) -> float:
    """Of a whole process, which may keep Python's bytecode as in a user's installation."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return seconds(lambda: subprocess.run(command, env=environment, check=True, capture_output=True))


def in_turns(
    calls: Mapping[str, Callable[[], object]], *, turns: int, turn_seconds: float, between: Callable[[], None]
) -> dict[str, float]:
    """Median seconds of each call, which returns when its work is done; `between` turns frees what can be freed.

    Each has been called before: all is loaded and compiled. A turn is as many calls as fill `turn_seconds`, at least
    one, after one that is not counted; calls that outlast a turn go without that one.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    expected = {}
    for name, call in calls.items():
        expected[name] = seconds(call)
        between()
    for _ in range(turns):
        for name, call in calls.items():
            time.sleep(PAUSE)
            if expected[name] < turn_seconds:
                call()
            n = min(MOST_CALLS, max(1, round(turn_seconds / expected[name])))
            times[name] += [seconds(call) for _ in range(n)]
            between()
    return {name: statistics.median(measured) for name, measured in times.items()}


def alternately(
    calls: Mapping[str, Callable[[], object]], *, turns: int, between: Callable[[], None]
) -> dict[str, float]:
    """Median seconds of calls that are long and warm already: one call a turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            time.sleep(PAUSE)
            times[name].append(seconds(call))
            between()
    return {name: statistics.median(measured) for name, measured in times.items()}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with its columns aligned, so that it reads well in a terminal too."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    padded.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(line) + " |" for line in padded)
