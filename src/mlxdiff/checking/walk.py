"""The files to look at: below folders, and those that are named; journals, and what unfinished runs left.

Folders are walked as by every command (picture_files.py). What is hidden is not ours, except what mlxdiff leaves while
it is at work.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..batch import claims
from ..batch.journal import NAME
from ..batch.unfinished import RUN
from ..files import is_left
from ..picture_files import folders
from .beside import LATENTS
from .fault import Fault
from .pixels import NAMES

_OURS = re.compile(r"\.mlxdiff-.+\.(part|lock|run|cells)")


@dataclass
class Found:
    """What there is to look at.

    pictures  files with a picture's name, in order
    latents   files that may be latents
    journals  of folders, and of runs that are unfinished, with the folder that their paths begin at
    faults    what is wrong already
    at_work   how many files belong to processes that are alive
    """

    pictures: list[str] = field(default_factory=list)
    latents: list[str] = field(default_factory=list)
    journals: list[Path] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    at_work: int = 0


def find(roots: Sequence[Path]) -> Found:
    """Everything below the roots, which are folders and files; opens none of them. A file is named once."""
    found, seen = Found(), set()
    for root in roots:
        if not root.is_dir():
            _file(found, seen, str(root), root.name, named=True)
            continue
        for folder, name in _walk(root, found):
            _file(found, seen, os.path.join(folder, name), name)
    return found


def _walk(root: Path, found: Found) -> Iterator[tuple[Path, str]]:
    """(folder, name) of the files below a folder; what runs left there is noted on the way."""
    for folder in folders(root):
        if folder.error is not None:
            said = f"The folder cannot be read ({folder.error.strerror})."
            found.faults.append(Fault("unreadable", folder.path, said))
        for name in folder.hidden:
            if _OURS.fullmatch(name):
                _left(found, folder.path, name)
        for name in folder.files:
            yield folder.path, name


def _file(found: Found, seen: set[str], path: str, name: str, *, named: bool = False) -> None:
    key = os.path.abspath(path)
    if key in seen:
        return
    suffix = os.path.splitext(name)[1].lower()
    if os.path.isdir(path):  # a link to a folder
        return
    if suffix in NAMES or (named and suffix != LATENTS and name != NAME):
        found.pictures.append(path)
    elif suffix == LATENTS:
        found.latents.append(path)
    elif name == NAME:
        found.journals.append(Path(path))
    seen.add(key)


def _left(found: Found, folder: Path, name: str) -> None:
    """A file that a process at work has, or that one left which was killed."""
    path = folder / name
    kind = name.rpartition(".")[2]
    if name.endswith(RUN):
        found.journals.append(path)
    try:
        if kind == "part":
            at_work = not is_left(path)
        elif kind == "lock":
            at_work = claims.is_held(path)
        else:
            key = name.removeprefix(".mlxdiff-").rpartition(".")[0]
            at_work = claims.is_held(folder / f".mlxdiff-{key}.lock")
    except FileNotFoundError:
        return  # finished just now
    except OSError as error:
        found.faults.append(Fault("unreadable", path, f"It cannot be read ({error.strerror})."))
        return
    if at_work:
        found.at_work += 1
    elif kind in ("part", "lock"):
        what = "A file that was being written" if kind == "part" else "A lock"
        said = f"{what} was left by a process that was killed: the next run in this folder removes it."
        found.faults.append(Fault("leftover", path, said))
    else:
        said = "A command was ended before all of its pictures were there: the same command again does the rest."
        found.faults.append(Fault("unfinished", path, said))
