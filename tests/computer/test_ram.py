"""How much memory this process may take: never more than the machine has, than a container grants, than `ulimit`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from mlxdiff import backend
from mlxdiff.computer import control_groups, ram

SOURCE = Path(ram.__file__).parents[2]
linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no control groups")
on_cpu = pytest.mark.skipif(mx.default_device().type == mx.gpu, reason="a GPU has memory of its own")
GRANTED = 104857600


@pytest.fixture
def groups(monkeypatch, tmp_path):
    """The folder of the outermost control group; nothing read in a test is kept."""
    monkeypatch.setattr(control_groups, "_ROOT", tmp_path)
    ram._group_limits.cache_clear()
    yield tmp_path
    ram._group_limits.cache_clear()


def test_a_container_s_limit_counts(groups):
    whole = ram.allowed()
    limit = groups / "memory.max"
    limit.write_text("max\n")
    ram._group_limits.cache_clear()
    assert ram.allowed() == whole
    limit.write_text(f"{GRANTED}\n")
    ram._group_limits.cache_clear()
    assert ram.allowed() == GRANTED


@on_cpu
@linux
def test_the_limit_of_an_own_control_group_counts(groups):
    lines = Path("/proc/self/cgroup").read_text()
    line = next(line for line in lines.splitlines() if re.match(r"\d+:(memory)?:", line)).split(":")
    top, name = (groups / "memory", "memory.limit_in_bytes") if line[1] else (groups, "memory.max")
    folder = top / line[2].lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"{GRANTED}\n")
    assert ram.allowed() == backend.memory_size() == GRANTED


@linux
def test_ulimit_counts():
    program = """
import resource
from mlxdiff.computer import ram
resource.setrlimit(resource.RLIMIT_AS, (2**36 + 4096, -1))
print(*ram._address_limit())
"""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert int(said.stdout) == 2**36 + 4096 - ram._ADDRESSES - os.cpu_count() * ram._ADDRESSES_A_CORE
