"""How many cores this process can have to itself at the moment, on Linux.

A BLAS deals each product out to threads that then wait for each other. A thread that has to share its core, with
another program or because a container's quota is used up, holds up all the others at every product: with one busy
neighbour on two cores, two threads were up to 20 times slower than one.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

SAMPLES, PAUSE = 3, 0.002  # seconds; a neighbour that is seen every time is there to stay


def free() -> int:
    """Cores that are this process' own to use, one at least: of those it may run on, the ones nobody computes on."""
    machine = os.cpu_count() or 1
    allowed = min(len(os.sched_getaffinity(0)), quota(Path("/sys/fs/cgroup/cpu.max")))
    return max(1, min(allowed, machine - busy_neighbours()))


def busy_neighbours() -> int:
    """Threads of others that are running or ready to, the fewest of a few looks."""
    return min(_runnable(look) for look in range(SAMPLES))


def quota(path: Path) -> int:
    """Cores' worth of time that the control group (version 2) grants, rounded up; very many without a limit."""
    try:
        granted, period = path.read_text(encoding="ascii").split()
        return math.ceil(int(granted) / int(period))
    except (OSError, ValueError, ZeroDivisionError):  # no control group, or the word max
        return 1 << 20


def _runnable(look: int) -> int:
    if look > 0:
        time.sleep(PAUSE)
    try:
        running = Path("/proc/loadavg").read_text(encoding="ascii").split()[3].split("/")[0]
        return max(0, int(running) - 1)  # this thread itself runs while it reads
    except (OSError, ValueError, IndexError):
        return 0
