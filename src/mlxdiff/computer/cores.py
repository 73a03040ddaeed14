"""How many cores this process can have to itself at the moment, on Linux. The native extension asks again and again.

A BLAS deals each product out to threads that then wait for each other. A thread that has to share its core, with
another program or because a container's quota is used up, holds up all the others at every product: with one busy
neighbour on two cores, two threads were up to 20 times slower than one.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

from . import control_groups

_NO_LIMIT = 1 << 20
WINDOW = 0.04  # seconds to watch the processors for; the kernel counts in steps of 0.01


def free() -> int:
    """Cores that are this process' own to use, one at least: of those it may run on, the idle ones."""
    return max(1, min(allowed(), (os.cpu_count() or 1) - busy_neighbours()))


def allowed() -> int:
    """Cores that this process may run on, whoever else does."""
    if not hasattr(os, "sched_getaffinity"):  # not on Linux
        return os.cpu_count() or 1
    quotas = map(quota, control_groups.files("cpu", "cpu.max", "cpu.cfs_quota_us"))
    return max(1, min(len(os.sched_getaffinity(0)), *quotas))


def busy_neighbours() -> int:
    """Cores that others keep busy, seen over a moment; threads of this process (a BLAS' may spin) do not count."""
    before, own, start = idle_time(Path("/proc/stat")), time.process_time(), time.perf_counter()
    time.sleep(WINDOW)
    after, own, elapsed = idle_time(Path("/proc/stat")), time.process_time() - own, time.perf_counter() - start
    if math.isinf(after):
        return 0
    return max(0, round((os.cpu_count() or 1) - (after - before + own) / elapsed))


def idle_time(path: Path) -> float:
    """Seconds that all cores together have been idle; infinite where nothing tells."""
    try:
        fields = path.read_text(encoding="ascii").split("\n", 1)[0].split()
        user, nice, system, idle, waiting = (int(field) for field in fields[1:6])
    except (OSError, ValueError):
        return math.inf
    if user + nice + system + idle + waiting == 0:  # a sandbox that counts nothing
        return math.inf
    return (idle + waiting) / os.sysconf("SC_CLK_TCK")


def quota(path: Path) -> int:
    """Cores' worth of time that a control group grants, rounded up; very many without a limit.

    `path` is its cpu.max of version 2, which names the period too, or its cpu.cfs_quota_us of version 1.
    """
    try:
        text = path.read_text(encoding="ascii")
        if path.name == "cpu.cfs_quota_us":
            text += " " + path.with_name("cpu.cfs_period_us").read_text(encoding="ascii")
        granted, period = map(int, text.split())
        return math.ceil(granted / period) if granted > 0 else _NO_LIMIT  # version 1 says -1
    except (OSError, ValueError, ZeroDivisionError):  # no control group, or the word max
        return _NO_LIMIT
