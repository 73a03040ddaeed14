"""What a number was measured on: named beside every table of this folder."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version


def describe(*packages: str) -> dict[str, str]:
    """The processor, the system and the versions of the packages named."""
    found = {"machine": f"{_processor()}, {os.cpu_count()} cores", "system": platform.platform()}
    found["python"] = platform.python_version()
    return found | {package: _version(package) for package in packages}


def line(described: dict[str, str]) -> str:
    return ", ".join(value if key in ("machine", "system") else f"{key} {value}" for key, value in described.items())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as info:
            names = [row.split(":", 1)[1].strip() for row in info if row.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else (platform.processor() or platform.machine())
