"""What a number was measured on: named beside every table of this folder."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version


def describe(*packages: str) -> dict[str, str]:
    """The processor, the GPU that MLX computes on, the system, its load, and the versions of the packages named."""
    found = {"machine": f"{_processor()}, {os.cpu_count()} cores", **_gpu(), "system": platform.platform()}
    found["python"] = platform.python_version()
    found |= {package: _version(package) for package in packages}
    return found | {"load": f"{os.getloadavg()[0]:.1f}"}


def line(described: dict[str, str]) -> str:
    unnamed = ("machine", "gpu", "system")
    return ", ".join(value if key in unnamed else f"{key} {value}" for key, value in described.items())


def _gpu() -> dict[str, str]:
    """The GPU's name and its driver's version; empty where MLX computes on a CPU."""
    from mlxdiff import backend

    if not backend.is_gpu():
        return {}
    return {"gpu": backend.device_name(), **_driver()}


def _driver() -> dict[str, str]:
    """The NVIDIA driver's version, where there is one: Metal comes with the system."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    versions = subprocess.run(query, capture_output=True, text=True, check=False).stdout.splitlines()
    return {"driver": versions[0].strip()} if versions else {}


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
