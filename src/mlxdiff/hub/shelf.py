"""Parts in folders, found by name: those that an environment variable lists, mlxdiff's own store, and built-in ones.

A file's name is its stem, a component's is its folder's; LoRAs also have the name that their trainer wrote into them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .. import spelling
from ..checkpoint.header import read_header
from ..errors import MlxdiffError, UnsupportedError
from ..hashing import content_hash
from ..part_kinds import KINDS, folders_in_environment
from .choosing import CONFIG, is_component_file
from .reference import SINGLE_FILE, shown
from .state import home

ALIAS = "ss_output_name"
BUILT_IN = Path(__file__).parents[1] / "assets" / "parts"
DEEPEST = 16  # folders below one another
MOST = 100_000  # files of one folder


@dataclass(frozen=True)
class Shelved:
    """A part in a folder, by the name that finds it."""

    name: str
    path: Path


def store_folder(kind: str) -> Path:
    """Where `pull` keeps the files of a kind that did not come from the hub."""
    return home() / "parts" / kind


def folders_of(kind: str) -> list[Path]:
    """The folders in which parts of a kind are found by name: the user's own, mlxdiff's store, what comes with it."""
    return [*folders_in_environment(kind), store_folder(kind), BUILT_IN / kind]


def shelved(kind: str) -> Iterator[Shelved]:
    """Every part of a kind that has a name, in the order of the folders."""
    for folder in folders_of(kind):
        yield from parts_below(folder)


def parts_below(folder: Path) -> list[Shelved]:
    """The .safetensors files below a folder, and the folders that are one component; links to folders are followed."""
    found: list[Shelved] = []
    seen: set[tuple[int, int]] = set()

    def look(folder: Path, depth: int) -> None:
        with suppress(OSError):  # a folder that is gone, or not ours to read
            about = folder.stat()
            if depth > DEEPEST or (about.st_dev, about.st_ino) in seen or len(found) >= MOST:
                return
            seen.add((about.st_dev, about.st_ino))
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
            names = {entry.name for entry in entries}
            if CONFIG in names and any(map(is_component_file, names)):
                found.append(Shelved(folder.name, folder))
                return
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                # Not entry.is_file, which raises for a link that leads to itself.
                if entry.name.lower().endswith(SINGLE_FILE) and os.path.isfile(entry.path):
                    found.append(Shelved(entry.name[: -len(SINGLE_FILE)], Path(entry.path)))
            for entry in entries:
                if not entry.name.startswith(".") and os.path.isdir(entry.path):
                    look(Path(entry.path), depth + 1)

    look(folder, 0)
    return found


def find_named(name: str, kind: str) -> Path | None:
    """The part of a kind that a name means; None for none.

    First by the name as it is, then whatever its letters' case, then by the name in the file. Within one of these the
    first folder goes before the next. Raises UnsupportedError where two different files of a folder have the name.
    """
    wanted = name[: -len(SINGLE_FILE)] if name.lower().endswith(SINGLE_FILE) else name
    shelves = [parts_below(folder) for folder in folders_of(kind)]
    rules: list[Callable[[Shelved], bool]] = [
        lambda part: part.name == wanted,
        lambda part: part.name.casefold() == wanted.casefold(),
    ]
    if KINDS[kind].has_alias:
        rules.append(lambda part: (alias_of(part.path) or "").casefold() == wanted.casefold())
    for rule in rules:
        for shelf in shelves:
            found = [part.path for part in shelf if rule(part)]
            if found:
                return _only(found, name, kind)
    return None


def alias_of(path: Path) -> str | None:
    """The name that a trainer gave the file when it was made; None where it has none, or cannot be read."""
    return metadata_of(path).get(ALIAS) or None


def metadata_of(path: Path) -> dict[str, str]:
    """The free-form metadata of a file's header; empty where it cannot be read."""
    with suppress(MlxdiffError, OSError):
        about = path.stat()
        return dict(_metadata(path, about.st_size, about.st_mtime_ns, about.st_ino))
    return {}


def nearest_names(name: str, kind: str) -> list[str]:
    """Up to three names of a kind that are spelt most like this one."""
    known: dict[str, str] = {}
    for part in shelved(kind):
        known.setdefault(part.name.casefold(), part.name)
    return [known[near] for near in spelling.nearest(name.casefold(), known, count=3, cutoff=0.5)]


def _only(found: list[Path], name: str, kind: str) -> Path:
    """The first of the files, unless they differ: nobody can tell which was meant then."""
    if len(found) > 1 and len({content_hash(path) for path in found}) > 1:
        listed = ", ".join(map(str, found[:5]))
        raise UnsupportedError(
            f"{shown(name)} may be any of {len(found)} {KINDS[kind].noun} files: {listed}.", "Give the path of one."
        )
    return found[0]


@lru_cache(maxsize=4096)
def _metadata(path: Path, *_: int) -> dict[str, str]:
    return {key: value for key, value in read_header(path).metadata.items() if isinstance(value, str)}
