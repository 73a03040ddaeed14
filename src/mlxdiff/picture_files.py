"""Which pictures a folder holds, and which files a pattern means: their paths, whatever they contain.

Knows names and nothing else: what is in a file is read by metadata/ and images.py.
"""

from __future__ import annotations

import glob
import os
import re
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import InputError, MlxdiffWarning

# What browsers show and images.py reads. A file that is named is taken whatever its name ends in.
PICTURE_SUFFIXES = (".png", ".apng", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
TEXT_FILES = (".txt", ".json")  # in which programs say how a picture was made
_ANY_FOLDERS = "**"


@dataclass(frozen=True)
class Folder:
    """What one folder holds, by name: files and links, and what is hidden. `error` says why it cannot be read."""

    path: Path
    files: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    error: OSError | None = None


def folders(root: str | Path) -> Iterator[Folder]:
    """The folder and all below it, each before those in it, by name with numbers by value: a-2 before a-10.

    What is hidden (a name that begins with a dot) is listed and not entered. Links to folders are not followed: no file
    comes twice, and no circle of links is walked. There is no recursion, since folders may lie a thousand deep, and
    only the names of one folder at a time are in memory.
    """
    waiting = [Path(root)]
    while waiting:
        place = waiting.pop()
        files, hidden, below = [], [], []
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        hidden.append(entry.name)
                    elif entry.is_dir(follow_symlinks=False):
                        below.append(entry.name)
                    else:
                        files.append(entry.name)
        except OSError as error:
            yield Folder(place, error=error)
            continue
        yield Folder(place, tuple(sorted(files, key=natural)), tuple(sorted(hidden)))
        waiting += (place / name for name in sorted(below, key=natural, reverse=True))


def picture_files(root: str | Path) -> Iterator[Path]:
    """The pictures in the folder and in those below it (`folders`), each as the folder is written and the path in it.

    Raises InputError for a folder that cannot be read; one below it is an MlxdiffWarning.
    """
    for i, folder in enumerate(folders(root)):
        if folder.error is not None:
            problem = f"The folder {folder.path} cannot be read ({folder.error.strerror})."
            if i == 0:
                raise InputError(problem, "Check its name and its permissions.")
            warnings.warn(MlxdiffWarning(f"{problem} Its pictures are left out."), stacklevel=2)
        paths = (folder.path / name for name in folder.files if is_picture_name(name))
        yield from (path for path in paths if _may_be_file(path))


def is_picture_name(name: str) -> bool:
    """Whether a file of this name is a picture, as far as its name says."""
    return name.lower().endswith(PICTURE_SUFFIXES)


def is_pattern(word: str) -> bool:
    """Whether a word stands for the files whose names are like it; not if a file is called so."""
    return glob.has_magic(word) and not os.path.lexists(word)


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


def _may_be_file(path: Path) -> bool:
    """Whether it is a file; what cannot be looked at (a circle of links, a closed folder) is left to its reader."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return not os.path.lexists(path)  # a link to nothing is none
    except OSError:
        return True


def natural(name: str) -> tuple[list[Any], str]:
    """Sorts a-2 before a-10. Numbers of any length are compared as text of their digits, the shorter first."""
    parts = re.split(r"([0-9]+)", name.lower())
    return [(len(part.lstrip("0")), part.lstrip("0")) if i % 2 else part for i, part in enumerate(parts)], name
