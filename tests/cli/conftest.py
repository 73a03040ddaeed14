"""A user whose hub is a server on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from hub_server import HubServer
from patience import WAIT

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def run(server, tmp_path) -> Run:
    """run(*arguments, code=0, **environment) -> the finished process, with `server` as hub."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "MLXDIFF_"))}
    base = {
        **kept,
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "MLXDIFF_HOME": str(tmp_path / "state"),
        "COLUMNS": "200",
    }

    def run(*arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "mlxdiff", *arguments],
            env={**base, **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=WAIT,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run
