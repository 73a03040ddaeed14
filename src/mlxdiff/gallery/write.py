"""A gallery as a file: pictures are read one after the other, and written a hundred at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .. import workers
from ..errors import InputError, MlxdiffError
from ..files import atomic_write, check_writable, remove_parts
from ..printable import printable
from . import thumbnails
from .blocks import Blocks, address, webp
from .document import head, tail
from .earlier import Earlier
from .entries import milliseconds, read_entry

Small = tuple[tuple[int, int], str]
MOST_BROKEN = 1000  # that the page names


@dataclass(frozen=True)
class Added:
    """A picture is on the page."""

    path: Path


@dataclass(frozen=True)
class Broken:
    """A file is no sound picture, and is left out."""

    path: Path
    error: MlxdiffError


def write_gallery(
    pictures: Sequence[Path],
    path: Path,
    *,
    title: str,
    size: int = thumbnails.SIZE,
    force: bool = False,
    tell: Callable[[Added | Broken], object] = lambda _: None,
) -> tuple[int, int]:
    """Writes the page whole or not at all; gives how many pictures are on it, and how many are broken.

    pictures  in the page's order
    size      pixels of the longer side of a thumbnail
    force     overwrite `path`; the thumbnails in it are taken over where their pictures are as they were
    tell      hears of each picture; what it raises ends the work

    Raises OutputError for the file, InputError where no picture is sound.
    """
    check_writable(path, force=force)
    remove_parts(path.parent)
    counts: list[int] = []

    def write(stream: BinaryIO) -> None:
        counts[:] = _write(stream, pictures, path, title, size, tell)

    atomic_write(path, write, force=force)
    n_shown, n_broken = counts
    return n_shown, n_broken


def _write(
    stream: BinaryIO,
    pictures: Sequence[Path],
    path: Path,
    title: str,
    size: int,
    tell: Callable[[Added | Broken], object],
) -> tuple[int, int]:
    def put(text: str) -> None:
        stream.write(text.encode())

    folder = path.parent
    blocks = Blocks(folder)
    earlier = Earlier(path, size)

    def reduced(picture: Path) -> Small:
        return _reduced(picture, folder, size, earlier)

    broken: list[tuple[str, str]] = []
    shown = n_broken = 0
    put(head(title, len(pictures), size))
    with closing(workers.in_order(reduced, pictures)) as results:
        for picture, result in results:
            try:
                small = result()  # first: what is no picture is broken, and one with broken metadata is shown
                blocks.add(read_entry(picture), *small)
            except MlxdiffError as error:
                n_broken += 1
                if len(broken) < MOST_BROKEN:
                    broken.append((printable(picture.name), printable(str(error))))
                tell(Broken(picture, error))
                continue
            shown += 1
            if blocks.is_full:
                put(blocks.take())
            tell(Added(picture))
    if not shown:
        raise InputError(f"None of the {len(pictures)} pictures can be read.", "Name sound ones.")
    put(blocks.take())
    put(tail(shown, broken))
    return shown, n_broken


def _reduced(picture: Path, folder: Path, size: int, earlier: Earlier) -> Small:
    """(width, height) of the picture, and its thumbnail as the page holds it. Raises InputError."""
    try:
        about = picture.stat()
        found = earlier.find(address(picture, folder), about.st_size, milliseconds(about))
    except (OSError, ValueError):
        found = None  # who opens it says what is wrong
    if found is not None:
        return found
    made = thumbnails.thumbnail(picture, size)
    return (made.width, made.height), webp(made.data)
