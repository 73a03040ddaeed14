"""Which pictures a folder holds, and which files a pattern means: their paths, whatever they contain.

Knows names and nothing else: what is in a file is read by metadata.py and images.py.
"""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from .errors import InputError, MlxdiffWarning

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_ANY_FOLDERS = "**"


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


def paths_like(pattern: str) -> set[str]:
    """What is called as a pattern with *, ? and [ ] says; ** stands for any folders, a last one for all files in them.

    As Python's glob, but ** follows no links to folders: two that lead to where they lie would have no end. What is
    hidden is left out where the pattern does not begin its name with a dot.
    """
    parts = pattern.split("/")
    if _ANY_FOLDERS not in parts:
        return set(glob.glob(pattern))
    at = parts.index(_ANY_FOLDERS)
    rest = parts[at + 1 :]
    while rest and rest[0] == _ANY_FOLDERS:
        rest.pop(0)
    start = "/".join((*parts[:at], ""))
    found = set()
    for top in glob.glob(start) if start else [""]:
        for folder, folders, names in os.walk(top or os.curdir):
            folders[:] = [name for name in folders if not name.startswith(".")]
            inside = folder if top else folder[len(os.curdir) + 1 :]  # as the pattern is written: no ./ in front
            if rest:
                found |= paths_like(os.path.join(glob.escape(inside), *rest))
            else:
                found |= {os.path.join(inside, name) for name in names if not name.startswith(".")}
    return found


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
