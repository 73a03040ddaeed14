"""Commands that are killed on their way, as a machine that goes down would, or held where a test has something to do.

Where they are is counted in what they have done and never in seconds, which a busy machine stretches.
"""

from __future__ import annotations

import atexit
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import mortal
from patience import WAIT

THREADS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # their number may decide last bits
PLAIN = ("-m", "mlxdiff")


def start(cwd: Path, *command: str, program: tuple[str, ...] = PLAIN, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *program, *command],
        cwd=cwd,
        env={**os.environ, **THREADS, "NO_COLOR": "1", **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def falling(pattern: str, n: int, how: str) -> tuple[str, ...]:
    """The program that dies or stops at the nth operation that the pattern describes; see mortal.py."""
    return mortal.__file__, pattern, str(n), how


def naming(done: str) -> str:
    """The pattern of a file that takes its name, which `done` matches."""
    return r"^os\.(link|rename) .*[ /]" + re.escape(done).replace(r"\*", "[^/]*") + "$"


def killed_after(cwd: Path, done: str, *command: str, n: int = 1, **environment: str) -> None:
    """Kills the command when `n` files match `done`, and another is about to."""
    process = start(cwd, *command, program=falling(naming(done), n + 1, "kill"), **environment)
    _, said = process.communicate(timeout=WAIT)
    assert process.returncode in mortal.DEATHS, said
    assert len(list(cwd.glob(done))) == n


def until_stopped(process: subprocess.Popen[str]) -> None:
    """Waits for a program that stops to do so; SIGCONT lets it go on."""
    atexit.register(process.kill)  # where the test fails before that
    end = time.monotonic() + WAIT
    while (found := os.waitpid(process.pid, os.WUNTRACED | os.WNOHANG)) == (0, 0):
        assert time.monotonic() < end, "it does not stop"
        time.sleep(0.01)
    assert os.WIFSTOPPED(found[1]), "it ended before it was to stop"


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))
