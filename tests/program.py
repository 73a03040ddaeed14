"""Runs the real program in its own process, as a shell does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from patience import WAIT


def mlxdiff(*arguments: str | Path, cwd: Path, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """The finished process; fails the test when it exits with another code than `code` or shows a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "mlxdiff", *map(str, arguments)],
        cwd=cwd,
        # One thread: how many cores are free decides the order of sums, and so last bits.
        env={"OPENBLAS_NUM_THREADS": "1", **os.environ, "COLUMNS": "200", "NO_COLOR": "1", **environment},
        stdin=subprocess.DEVNULL,  # and no terminal, which would be asked for prompts
        capture_output=True,
        text=True,
        timeout=WAIT,
    )
    assert done.returncode == code, f"exit {done.returncode}: {done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done
