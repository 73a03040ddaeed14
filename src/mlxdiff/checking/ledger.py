"""What the journals of folders say of each file, read line by line; and whether all that they have is there."""

from __future__ import annotations

import os
import stat
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
    _read: set[str] = field(default_factory=set)

    def read(self, journal: Path) -> None:
        """Takes in what a journal says."""
        key = os.path.abspath(journal)
        if key in self._read:
            return
        self._read.add(key)
        try:
            with steady(journal) as stream:
                self._take(journal, stream)
        except UnsoundError as error:
            if error.kind != "changing":  # a run that is at work adds lines
                self.faults.append(error.at(journal))

    def read_above(self, path: Path) -> None:
        """Takes in the nearest journal above a file."""
        for folder in list(Path(os.path.abspath(path)).parents)[:MAX_ABOVE]:
            if os.path.lexists(folder / NAME):
                self.read(folder / NAME)
                return

    def of(self, path: str) -> Entry | None:
        return self.entries.get(os.path.abspath(path))

    def missing(self, below: list[Path]) -> Iterator[Fault]:
        """What is not there, of all that the journals have below these folders."""
        roots = [os.path.abspath(folder) for folder in below]
        for path, entry in self.entries.items():
            if any(os.path.commonpath((root, path)) == root for root in roots) and not _is_there(path):
                said = f"The journal {entry.journal} has it, and it is not there: the same command again renders it."
                yield Fault("missing", entry.journal.parent / entry.name, said)

    def _take(self, journal: Path, stream: BinaryIO) -> None:
        for number in range(1, MAX_LINES + 1):
            line = stream.readline(MAX_LINE)
            if not line:
                return
            if not line.endswith(b"\n"):
                if len(line) == MAX_LINE:
                    raise UnsoundError(
                        "journal", f"Line {number} is longer than {MAX_LINE} bytes: the rest is not read."
                    )
                said = (
                    f"Its last line ({number}) is torn, by a process that was killed: that picture is looked at again."
                )
                self.faults.append(Fault("journal", journal, said))
                return
            try:
                found = parse_line(line)
            except ValueError:
                said = f"Line {number} is damaged or was edited: the next run does not believe it."
                self.faults.append(Fault("journal", journal, said))
                continue
            if isinstance(found, Done):
                self._enter(journal, number, found)
        raise UnsoundError("journal", f"It has more than {MAX_LINES} lines: the rest is not read.")

    def _enter(self, journal: Path, number: int, line: Done) -> None:
        place = PurePosixPath(line.path)
        if place.is_absolute() or ".." in place.parts or "\0" in line.path or not place.name:
            self.faults.append(Fault("journal", journal, f"Line {number} names a file outside the folder."))
            return
        name = place.as_posix()
        stem = place.with_suffix("").as_posix()
        files = {name: line.sha256, f"{stem}{LATENTS}": line.latents, f"{stem}{SUFFIX}": line.trajectory}
        for each, digest in files.items():
            if digest is not None:
                path = os.path.abspath(journal.parent / each)
                self.entries[path] = Entry(journal, each, digest, line if each == name else None)
                self.names[digest] = each


def _is_there(path: str) -> bool:
    try:
        return not stat.S_ISDIR(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False
