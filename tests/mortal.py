"""Runs mlxdiff in a process that dies, or stops, at a moment of its own life, however fast or busy the machine is.

    python mortal.py PATTERN N HOW generate "a cat" ...

The moment is when it asks the system for the Nth operation on files that PATTERN describes, as in "open out/x.png" or
"os.rename out/x.part out/x.png"; N is 0 for its start. HOW is `kill` (before that operation, and nothing is unwound),
`stop` (the same, until it is told to go on), or so many seconds of its own computing after which the system ends it.
"""

from __future__ import annotations

import itertools
import os
import re
import runpy
import signal
import sys

DEATHS = (-signal.SIGKILL, -signal.SIGPROF)  # what a process that has died so returns


def fall(how: str) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    else:  # counts what all threads compute, and not what others do meanwhile; Python never sees the signal
        signal.setitimer(signal.ITIMER_PROF, float(how))


def fall_at(pattern: re.Pattern[str], n: int, how: str) -> None:
    reached = itertools.count(1)  # one step for several threads

    def look(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" or event.startswith(("os.", "fcntl.")):
            names = (os.fsdecode(a) for a in arguments if isinstance(a, str | bytes | os.PathLike))
            if pattern.search(" ".join([event, *names])) and next(reached) == n:
                fall(how)

    sys.addaudithook(look)


def main() -> None:
    pattern, n, how, *sys.argv[1:] = sys.argv[1:]
    sys.path[0] = ""  # as for `python -m mlxdiff`, and not this folder
    if int(n) == 0:
        fall(how)
    else:
        fall_at(re.compile(pattern), int(n), how)
    runpy.run_module("mlxdiff", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
