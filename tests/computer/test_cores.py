"""How many threads a BLAS gets: never more than there are cores to run them at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlxdiff.computer import control_groups, cores, elf

pytestmark = pytest.mark.skipif(not elf.supported(), reason="only Linux tells")

LIVE = "from mlxdiff import backend; from mlxdiff.computer import blas; backend.prepare(); print(blas.live())"
SPIN = "print(flush=True)\nwhile True: pass"


@pytest.mark.parametrize(
    ("machine", "allowed", "neighbours", "expected"),
    [(8, 8, 0, 8), (8, 8, 3, 5), (8, 2, 3, 2), (8, 2, 7, 1), (2, 2, 9, 1), (1, 1, 0, 1)],
)
def test_the_cores_that_nobody_uses(monkeypatch, machine, allowed, neighbours, expected):
    monkeypatch.setattr(os, "cpu_count", lambda: machine)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)))
    monkeypatch.setattr(cores, "busy_neighbours", lambda: neighbours)
    monkeypatch.setattr(cores, "quota", lambda _: 1 << 20)
    assert cores.free() == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("max 100000\n", 1 << 20), ("150000 100000\n", 2), ("50000 100000\n", 1), ("junk", 1 << 20)]
)
def test_a_control_groups_quota(tmp_path, text, expected):
    (tmp_path / "cpu.max").write_text(text)
    assert cores.quota(tmp_path / "cpu.max") == expected


@pytest.mark.parametrize(
    ("granted", "expected"), [("-1\n", 1 << 20), ("150000\n", 2), ("100000\n", 1), ("", 1 << 20), ("0\n", 1 << 20)]
)
def test_a_quota_of_the_first_version(tmp_path, granted, expected):
    (tmp_path / "cpu.cfs_quota_us").write_text(granted)
    assert cores.quota(tmp_path / "cpu.cfs_quota_us") == 1 << 20  # no period
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    assert cores.quota(tmp_path / "cpu.cfs_quota_us") == expected


def test_the_smallest_quota_of_this_process_groups_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(control_groups, "_ROOT", tmp_path)
    assert cores.allowed() == 64
    (tmp_path / "cpu.max").write_text("700000 100000\n")
    assert cores.allowed() == 7
    line = next(
        line for line in Path("/proc/self/cgroup").read_text().splitlines() if re.match(r"\d+:(cpu\b.*)?:", line)
    )
    _, first_version, group = line.split(":", 2)
    folder = (tmp_path / "cpu" if first_version else tmp_path) / group.lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    if first_version:
        (folder / "cpu.cfs_quota_us").write_text("300000")
        (folder / "cpu.cfs_period_us").write_text("100000")
    else:
        (folder / "cpu.max").write_text("300000 100000\n")
    assert cores.allowed() == 3


def test_without_a_control_group_there_is_no_quota(tmp_path):
    assert cores.quota(tmp_path / "missing") > 1000


def test_idle_time_is_read_from_the_first_line_and_unknown_without_it(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu  10 0 5 300 20 0 0 0 0 0\ncpu0 1 1 1 1 1\n")
    assert cores.idle_time(stat) == 320 / os.sysconf("SC_CLK_TCK")
    stat.write_text("cpu  0 0 0 0 0 0 0 0 0 0\n")  # a sandbox that counts nothing
    assert cores.idle_time(stat) == float("inf")
    stat.write_text("cpu\n")
    assert cores.idle_time(stat) == float("inf")
    assert cores.idle_time(tmp_path / "missing") == float("inf")


def test_nobody_is_busy_where_the_system_does_not_tell(monkeypatch):
    monkeypatch.setattr(cores, "idle_time", lambda _: float("inf"))
    assert cores.busy_neighbours() == 0


def test_a_busy_machine_leaves_one_thread_unless_the_user_says_otherwise():
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    command = [sys.executable, "-c", SPIN]
    spinners = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        for spinner in spinners:
            assert spinner.stdout is not None
            assert spinner.stdout.readline() == b"\n"
        busy, told = (
            subprocess.run([sys.executable, "-c", LIVE], env=env, capture_output=True, text=True, check=True).stdout
            for env in (environment, {**environment, "OPENBLAS_NUM_THREADS": "2"})
        )
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.communicate()
    assert "1 thread" in busy
    assert "2 threads" in told or cores.allowed() == 1
