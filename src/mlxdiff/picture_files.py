"""Which pictures a folder holds: their paths, in one order, whatever they contain.

Knows suffixes and nothing else: what is in a file is read by metadata.py and images.py.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from .errors import InputError, MlxdiffWarning

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def picture_files(folder: str | Path) -> Iterator[Path]:
    """The pictures in the folder and in those below it, each as the folder is written and the path in it.

    A folder's pictures come by name, then those of the folders in it. What is hidden (a name that begins with a dot)
    is left out, as are links to folders: no picture comes twice, and no circle of links is followed. Only names of one
    folder at a time are in memory. Raises InputError for a folder that cannot be read; one below it is an
    MlxdiffWarning.
    """
    waiting = [Path(folder)]
    first = True
    while waiting:
        place = waiting.pop()
        try:
            pictures, folders = _names_in(place)
        except OSError as error:
            problem = f"The folder {place} cannot be read ({error.strerror})."
            if first:
                raise InputError(problem, "Check its name and its permissions.") from None
            warnings.warn(MlxdiffWarning(f"{problem} Its pictures are left out."), stacklevel=2)
            continue
        first = False
        yield from (place / name for name in pictures)
        waiting += (place / name for name in reversed(folders))


def is_picture_name(name: str) -> bool:
    """Whether a file of this name is a picture, as far as its name says."""
    return name.lower().endswith(PICTURE_SUFFIXES)


def _names_in(place: Path) -> tuple[list[str], list[str]]:
    pictures, folders = [], []
    with os.scandir(place) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            elif is_picture_name(entry.name) and _may_be_file(entry):
                pictures.append(entry.name)
    return sorted(pictures), sorted(folders)


def _may_be_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file; a link that cannot be followed (a circle, a closed folder) is left to its reader."""
    try:
        return entry.is_file()
    except OSError:
        return True
