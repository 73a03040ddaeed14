"""What lies in the Hugging Face cache, seen as it is: broken links and half repositories too.

Every path that is handed out as a blob lies in its repository's own folder of blobs: a link that leads anywhere
else is never followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.detect import MODEL_INDEX
from .local import LARGEST_REF
from .reference import COMMIT


@dataclass(frozen=True)
class Entry:
    """One file of a snapshot.

    path     its place in the snapshot
    place    the same on this disk: a link to the blob, or the file itself where the cache has no links
    blob     the blob that the link names, there or not; None for a file, and for a link that leads elsewhere
    content  the file to read; None where it is gone, or lies outside the cache
    """

    path: str
    place: Path
    blob: Path | None
    content: Path | None


@dataclass(frozen=True)
class Revision:
    """One snapshot of a repository: its commit, its folder, its files, and the branches and tags that stand for it."""

    commit: str
    folder: Path
    entries: tuple[Entry, ...]
    refs: tuple[str, ...]

    @property
    def is_model(self) -> bool:
        """Whether it is, or was, a model in the diffusers layout."""
        return any(entry.path == MODEL_INDEX for entry in self.entries)

    @property
    def contents(self) -> set[Path]:
        """The files that are there."""
        return {entry.content for entry in self.entries if entry.content is not None}


def revisions_of(storage: Path) -> list[Revision]:
    """The snapshots in a repository's folder, by commit."""
    refs: dict[str, list[str]] = {}
    for name, commit in refs_of(storage):
        refs.setdefault(commit, []).append(name)
    found = []
    for folder in _folders(storage / "snapshots"):
        if COMMIT.fullmatch(folder.name):
            entries = tuple(entries_of(storage, folder))
            found.append(Revision(folder.name, folder, entries, tuple(sorted(refs.get(folder.name, ())))))
    return found


def entries_of(storage: Path, folder: Path) -> Iterator[Entry]:
    """The files of a snapshot; links to folders are not followed, and left out."""
    for place in files_below(folder):
        if not (place.is_symlink() and place.is_dir()):
            yield entry_at(storage, place, place.relative_to(folder).as_posix())


def entry_at(storage: Path, place: Path, path: str) -> Entry:
    """What is at one place of a snapshot, or would be."""
    if not place.is_symlink():
        return Entry(path, place, None, place if place.is_file() else None)
    blob = _blob_of(storage, place)
    is_there = blob is not None and blob.is_file() and (not blob.is_symlink() or _is_below(blob, storage.parent))
    return Entry(path, place, blob, blob if is_there else None)


def refs_of(storage: Path) -> Iterator[tuple[str, str]]:
    """The branches and tags of a repository, with the commits that they stand for."""
    for place in files_below(storage / "refs"):
        with suppress(OSError, UnicodeDecodeError):
            if place.is_file() and place.stat().st_size <= LARGEST_REF:
                yield place.relative_to(storage / "refs").as_posix(), place.read_text(encoding="ascii").strip()


def files_below(folder: Path) -> list[Path]:
    """Everything below a folder that is no folder, sorted; links are not followed."""
    found = []
    for root, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        found += [Path(root) / name for name in (*names, *links)]
    return sorted(found)


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return []


def _blob_of(storage: Path, link: Path) -> Path | None:
    """Where a link of a snapshot leads, one step far: a blob may itself be a link into what repositories share."""
    target = Path(os.path.normpath(link.parent / os.readlink(link)))
    blobs = storage / "blobs"
    if target.parent == blobs or os.path.realpath(target.parent) == os.path.realpath(blobs):
        return blobs / target.name
    return None


def _is_below(path: Path, folder: Path) -> bool:
    """Whether a path, its links followed, lies in a folder."""
    real, top = os.path.realpath(path), os.path.realpath(folder)
    return os.path.commonpath([real, top]) == top
