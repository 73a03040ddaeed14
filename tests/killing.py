"""Commands that are killed on their way, as a machine that goes down would."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

THREADS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # their number may decide last bits


def start(cwd: Path, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mlxdiff", *command],
        cwd=cwd,
        env={**os.environ, **THREADS, "NO_COLOR": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def killed_after(cwd: Path, done: str, *command: str) -> None:
    """Kills the command once a file matches `done`."""
    process = start(cwd, *command)
    until = time.monotonic() + 60
    while not list(cwd.glob(done)) and time.monotonic() < until and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert list(cwd.glob(done))


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))
