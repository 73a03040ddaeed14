"""What a command remembers while it is unfinished, where no journal of the user's stays: its seed and its pictures.

`mlxdiff generate "a cat" --n-images 6` draws a seed. Killed after two pictures, the same command has to know it, so a
hidden journal lies in the output folder from the first picture to the last:

    .mlxdiff-KEY-TOKEN.run                              beside pictures that have a place of their own
    .mlxdiff-KEY-TOKEN.cells/mlxdiff-journal.jsonl      with the cells of a sheet, of which only the sheet is wanted
    .mlxdiff-KEY-TOKEN.lock                             held by the process that is at it

KEY is a hash of what was asked for, TOKEN tells apart processes that run the same command at the same time: each has a
journal, and draws a seed, of its own. What a killed one leaves is for the next process to finish.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from . import claims
from .journal import NAME, Journal, Run

RUN = ".run"
CELLS = ".cells"


class Unfinished:
    """The hidden journal of a command in `folder`: what another process left of it, or a new one.

    `suffix` is RUN or CELLS. Raises OutputError where the folder cannot be read or written.
    """

    def __init__(self, folder: Path, key: str, suffix: str) -> None:
        self.folder, self.key, self._suffix = folder, key, suffix
        self._claim: claims.Claim | None = None
        self._wanted: Run | None = None
        for path in sorted(folder.glob(f".mlxdiff-{key}-*{suffix}")):
            claim = claims.take(folder, _name_of(path))
            if claim is None:
                continue
            if path.exists():
                self._claim, self.journal = claim, _journal_at(path)
                return
            claim.release()
        self.journal = _journal_at(folder / f".mlxdiff-{key}-{secrets.token_hex(4)}{suffix}")

    @property
    def run(self) -> Run | None:
        """How an earlier process began it, if one did."""
        return self.journal.runs.get(self.key)

    @property
    def holds_pictures(self) -> bool:
        return self._suffix == CELLS

    @property
    def pictures(self) -> Path:
        """The folder for pictures that have no place of their own."""
        return self.journal.path.parent

    def begin(self, run: Run) -> None:
        """Has `run` recorded before the first picture is written: until then there is nothing to resume."""
        self._wanted = run
        if self._claim is None:
            self.journal.before_first = self._record
        else:
            self.journal.begin(run, self.run)

    def complete(self) -> None:
        """Everything is where it belongs: nothing hidden stays behind."""
        if self._claim is not None:
            if self._suffix == CELLS:
                shutil.rmtree(self.pictures, ignore_errors=True)
            else:
                self.journal.path.unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Leaves the rest to the next process."""
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    def _record(self) -> None:
        assert self._wanted is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.journal.path if self._suffix == RUN else self.journal.path.parent
        self._claim = claims.take(self.folder, _name_of(path))
        self.journal.begin(self._wanted)


def first_known(folder: Path, keys: Sequence[str]) -> str:
    """The first of some names for one command that an earlier process left something of, or the first of all."""
    try:
        left = {name.removeprefix(".mlxdiff-")[:16] for name in os.listdir(folder) if name.startswith(".mlxdiff-")}
    except OSError:  # there is none yet, or whoever writes there says what is wrong
        left = set()
    return next((key for key in keys if key in left), keys[0])


def _name_of(path: Path) -> str:
    """KEY-TOKEN."""
    return path.name.removeprefix(".mlxdiff-").rpartition(".")[0]


def _journal_at(path: Path) -> Journal:
    return Journal(path, NAME) if path.suffix == CELLS else Journal(path.parent, path.name)
