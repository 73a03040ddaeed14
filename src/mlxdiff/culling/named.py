"""Where pictures come from: files, folders, patterns in quotes, and lists of paths; as a command names them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..picture_files import is_pattern, is_picture_name, natural, paths_like, picture_files

STANDARD_INPUT = "-"
MAX_LIST = 2**26  # bytes of a list of paths


@dataclass(frozen=True)
class Place:
    """A file, and what it is called in the folder that was named: its name alone where it was named itself."""

    path: Path
    below: Path


def places(words: Iterable[str]) -> Iterator[Place]:
    """The files that the words name, each once, in their order; those of a folder or a pattern by name.

    A word is a file, a folder (picture_files.py), a pattern with *, ? or [ ] that no file is called, or - for paths on
    standard input, of which each ends in a line break, or all in NUL. Raises InputError for a folder that cannot be
    read, a pattern without pictures, and a list that is none. Files are not opened: one that is missing is a place too.
    """
    met: set[str] = set()
    for word in words:
        for place in _places(word):
            key = os.path.abspath(place.path)
            if key not in met:
                met.add(key)
                yield place


def _places(word: str) -> Iterator[Place]:
    if word == STANDARD_INPUT:
        for path in _listed():
            yield from _place(path)
    elif is_pattern(word):
        found = False
        for path in sorted(paths_like(word), key=natural):
            if os.path.isdir(path) or is_picture_name(path) or Path(path).suffix == Path(word).suffix:
                found = True
                yield from _place(path)
        if not found:
            raise InputError(f"No picture's name is like {word}.", "Check the folder and the pattern.")
    else:
        yield from _place(word)


def _place(path: str) -> Iterator[Place]:
    try:
        is_folder = os.path.isdir(path)
    except ValueError:  # a name that no file can have: who reads it says so
        is_folder = False
    if is_folder:
        yield from (Place(file, file.relative_to(path)) for file in picture_files(path))
    else:
        yield Place(Path(path), Path(Path(path).name))


def _listed() -> list[str]:
    if sys.stdin is None:
        raise InputError("There is no standard input.", "Name files or a folder instead of -.")
    try:
        data = sys.stdin.buffer.read(MAX_LIST + 1)
    except OSError as error:
        raise InputError(f"Standard input cannot be read ({error.strerror}).", "Check the pipe.") from None
    if len(data) > MAX_LIST:
        raise InputError(f"Standard input has more than {MAX_LIST} bytes.", "Give a list of paths, one a line.")
    paths = data.split(b"\0") if b"\0" in data else data.splitlines()
    return [os.fsdecode(path) for path in paths if path]
