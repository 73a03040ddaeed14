"""What the journals of folders say of each file, read line by line; and whether all that they have is there."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ..batch.journal import NAME, Done, parse_line
from ..trajectory import SUFFIX
from .beside import LATENTS
from .fault import Fault, UnsoundError
from .reading import steady

MAX_LINE = 2**16  # bytes
MAX_LINES = 2**20
MAX_ABOVE = 8  # folders above a named file in which its journal is looked for


@dataclass(frozen=True)
class Entry:
    """What a journal has of a file: its hash, and of a picture the line."""

    journal: Path
    name: str
    sha256: str
    line: Done | None = None


@dataclass
class Ledger:
    """Entries by the absolute path of their files, and names by hash; `faults` are of the lines themselves."""

    entries: dict[str, Entry] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    _read: dict[str, tuple[int, int]] = field(default_factory=dict)  # as the journals were then
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def read(self, journal: Path) -> None:
        """Takes in what a journal says, unless it is known as it is now."""
        key, state = os.path.abspath(journal), _state(journal)
        if self._read.get(key) == state:
            return
        known, self._read[key] = key in self._read, state
        faults: list[Fault] = []
        try:
            with steady(journal) as stream:
                self._take(journal, stream, faults)
        except UnsoundError as error:
            if error.kind != "changing":  # a run that is at work adds lines
                faults.append(error.at(journal))
        if not known:
            self.faults += faults

    def read_above(self, path: Path) -> None:
        """Takes in the nearest journal above a file."""
        for folder in list(Path(os.path.abspath(path)).parents)[:MAX_ABOVE]:
            if os.path.lexists(folder / NAME):
                self.read(folder / NAME)
                return

    def of(self, path: str) -> Entry | None:
        return self.entries.get(os.path.abspath(path))

    def now(self, path: str, entry: Entry) -> Entry:
        """The entry as it is by now: a run that is at work may have rendered the picture anew."""
        with self._turn:
            self.read(entry.journal)
        found = self.of(path)
        return entry if found is None else found

    def missing(self, below: list[Path]) -> Iterator[Fault]:
        """What is not there, of all that the journals have below these folders."""
        roots = [os.path.abspath(folder) for folder in below]
        for path, entry in self.entries.items():
            if any(os.path.commonpath((root, path)) == root for root in roots) and not _is_there(path):
                said = f"The journal {entry.journal} has it, and it is not there: the same command again renders it."
                yield Fault("missing", entry.journal.parent / entry.name, said)

    def _take(self, journal: Path, stream: BinaryIO, faults: list[Fault]) -> None:
        """Of a job that has several lines the last one counts."""
        last: dict[str, tuple[int, Done]] = {}
        try:
            for number, line in _lines(stream):
                try:
                    found = parse_line(line)
                except ValueError:
                    said = f"Line {number} is damaged or was edited: the next run does not believe it."
                    if not line.endswith(b"\n"):
                        said = f"Its last line ({number}) is torn: the next run cuts it off and looks at its picture."
                    faults.append(Fault("journal", journal, said))
                    continue
                if isinstance(found, Done):
                    last.pop(found.id, None)
                    last[found.id] = number, found
        finally:
            for number, line in last.values():
                self._enter(journal, number, line, faults)

    def _enter(self, journal: Path, number: int, line: Done, faults: list[Fault]) -> None:
        place = PurePosixPath(line.path)
        if place.is_absolute() or ".." in place.parts or "\0" in line.path or not place.name:
            faults.append(Fault("journal", journal, f"Line {number} names a file outside the folder."))
            return
        name = place.as_posix()
        stem = place.with_suffix("").as_posix()
        files = {name: line.sha256, f"{stem}{LATENTS}": line.latents, f"{stem}{SUFFIX}": line.trajectory}
        for each, digest in files.items():
            if digest is not None:
                path = os.path.abspath(journal.parent / each)
                self.entries[path] = Entry(journal, each, digest, line if each == name else None)
                self.names[digest] = each


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines with their numbers; raises UnsoundError for more than are read."""
    for number in range(1, MAX_LINES + 1):
        line = stream.readline(MAX_LINE)
        if not line:
            return
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            raise UnsoundError("journal", f"Line {number} is longer than {MAX_LINE} bytes: the rest is not read.")
        yield number, line
    raise UnsoundError("journal", f"It has more than {MAX_LINES} lines: the rest is not read.")


def _state(journal: Path) -> tuple[int, int]:
    try:
        about = os.stat(journal)
    except OSError:
        return -1, -1
    return about.st_size, about.st_mtime_ns


def _is_there(path: str) -> bool:
    try:
        return not stat.S_ISDIR(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False
