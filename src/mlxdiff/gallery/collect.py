"""Which pictures a gallery is to show: files, the pictures in folders and below them, and what patterns match."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..picture_files import paths_like

# What browsers show and images.py reads. A file that is named is taken whatever its name ends in.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")


def collect(places: Iterable[Path]) -> list[Path]:
    """The pictures in the order of `places`, in folders by name with numbers by value, each once.

    What is hidden (its name begins with a dot) is not looked for in folders, and links to folders are not followed.
    Raises InputError for a place that is not there, a folder that cannot be read, and where there is no picture.
    """
    found: dict[str, Path] = {}
    for place in places:
        for path in _in(place):
            found.setdefault(os.path.abspath(path), path)
    if not found:
        ends = ", ".join(SUFFIXES)
        raise InputError("There is no picture.", f"Pictures in folders end in {ends}.")
    return list(found.values())


def _in(place: Path) -> Iterable[Path]:
    try:
        if place.is_dir():
            return _below(place)
        if not os.path.lexists(place) and glob.has_magic(str(place)):
            return _matching(place)
    except (OSError, ValueError):
        pass  # who reads it says what is wrong
    return [place]


def _matching(pattern: Path) -> Iterator[Path]:
    """What the shell would have made of a pattern that reached us in quotes."""
    paths = [Path(path) for path in paths_like(str(pattern))]
    if not paths:
        raise InputError(f"Nothing is called {pattern}.", "Check the pattern and the folder.")
    for path in sorted(paths, key=natural):
        yield from _below(path) if path.is_dir() else [path]


def _below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}).", "Check its permissions.")

    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural)
        for name in sorted(names, key=natural):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(root, name)


def natural(name: str | Path) -> tuple[list[Any], str]:
    """Sorts a-2 before a-10. Numbers of any length are compared as text of their digits, the shorter first."""
    parts = re.split(r"([0-9]+)", str(name).lower())
    return [(len(part.lstrip("0")), part.lstrip("0")) if i % 2 else part for i, part in enumerate(parts)], str(name)
