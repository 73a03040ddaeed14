"""Runs mlxdiff in a process that dies at a moment of its own life, however fast or busy the machine is.

    python mortal.py PATTERN N SECONDS generate "a cat" ...

It dies when it asks the system for the Nth operation on files that PATTERN describes, as in "open out/x.png" or
"os.rename out/x.part out/x.png": instead of that operation, or after SECONDS more of its own computing. N is 0 for its
start. Nothing is unwound: SIGKILL in the first case, and in the second a signal that only the system handles.
"""

from __future__ import annotations

import itertools
import os
import re
import runpy
import signal
import sys

DEATHS = (-signal.SIGKILL, -signal.SIGPROF)  # what such a process returns


def die(seconds: float) -> None:
    if seconds == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    # Counts what the process computes, in all its threads, and not what others do meanwhile.
    signal.setitimer(signal.ITIMER_PROF, seconds)


def die_at(pattern: re.Pattern[str], n: int, seconds: float) -> None:
    reached = itertools.count(1)  # one step for several threads

    def look(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" or event.startswith(("os.", "fcntl.")):
            names = (os.fsdecode(a) for a in arguments if isinstance(a, str | bytes | os.PathLike))
            if pattern.search(" ".join([event, *names])) and next(reached) == n:
                die(seconds)

    sys.addaudithook(look)


def main() -> None:
    pattern, n, seconds, *sys.argv[1:] = sys.argv[1:]
    sys.path[0] = ""  # as for `python -m mlxdiff`, and not this folder
    if int(n) == 0:
        die(float(seconds))
    else:
        die_at(re.compile(pattern), int(n), float(seconds))
    runpy.run_module("mlxdiff", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
