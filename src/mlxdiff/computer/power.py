"""What this machine says of its battery and its heat; None wherever it says nothing.

Linux tells both in /sys, an NVIDIA GPU its temperature through nvidia-smi, macOS its battery through pmset.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SYSTEM = Path("/sys/class")
# The sensors of processors, as their drivers are named: those of disks and batteries are not asked.
PROCESSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "x86_pkg_temp", "cpu", "soc")
HOTTEST, COLDEST = 150.0, 0.0  # degrees Celsius; beyond these a sensor is broken
SECONDS = 5.0  # that another program may take to answer


@dataclass(frozen=True)
class Battery:
    """How full the batteries are, from 0 to 100, and whether the machine runs on them."""

    percent: float
    discharging: bool


def battery(system: Path = SYSTEM) -> Battery | None:
    """The machine's own batteries as one; None where it has none, or does not tell."""
    if sys.platform == "darwin":
        return battery_in(_answer("pmset", "-g", "batt"))
    found = []
    for supply in _folders(system / "power_supply"):
        if _word(supply / "type") == "Battery" and _word(supply / "scope") != "Device":  # not that of a mouse
            percent = _number(supply / "capacity")
            if percent is not None:
                found.append(Battery(min(max(percent, 0.0), 100.0), _word(supply / "status") == "Discharging"))
    if not found:
        return None
    return Battery(sum(each.percent for each in found) / len(found), any(each.discharging for each in found))


def battery_in(text: str) -> Battery | None:
    """What pmset prints, read: "Now drawing from 'Battery Power'", and "85%;" of each battery."""
    percents = [float(found) for found in re.findall(r"\b(\d{1,3})%;", text)]
    return Battery(sum(percents) / len(percents), "'Battery Power'" in text) if percents else None


def temperature(system: Path = SYSTEM) -> float | None:
    """The hottest sensor of the processors and NVIDIA GPUs, in degrees Celsius; None where none tells."""
    return max(_sensors(system), default=None)


def _sensors(system: Path) -> Iterator[float]:
    for folder, name, pattern in (
        (system / "hwmon", "name", "temp*_input"),
        (system / "thermal", "type", "temp"),
    ):
        for sensor in _folders(folder):
            if (_word(sensor / name) or "").lower().replace("-thermal", "").replace("-", "_") in PROCESSORS:
                thousandths = [_number(file) for file in sorted(sensor.glob(pattern))]
                yield from _sensible([None if each is None else each / 1000 for each in thousandths])
    query = ("--query-gpu=temperature.gpu", "--format=csv,noheader,nounits")
    yield from _sensible([_read(line) for line in _answer("nvidia-smi", *query).splitlines()])


def _sensible(degrees: list[float | None]) -> Iterator[float]:
    yield from (each for each in degrees if each is not None and COLDEST < each < HOTTEST)


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _word(file: Path) -> str | None:
    try:
        return file.read_text("utf-8", "replace")[:100].strip()
    except OSError:
        return None


def _number(file: Path) -> float | None:
    return _read(_word(file) or "")


def _read(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\s*-?\d{1,9}(\.\d{1,9})?\s*", text, re.ASCII) else None


def _answer(program: str, *arguments: str) -> str:
    """What a program prints; nothing where it is not there, fails, or takes too long."""
    path = shutil.which(program)
    if path is None:
        return ""
    try:
        done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=SECONDS, errors="replace")
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""
