"""What a run has finished, as a file beside the pictures: JSON Lines that are only ever appended to.

    {"batch_size":4,"run":"5d0c...","seed":7}                            how a command cuts and seeds its jobs
    {"id":"91ab...","path":"00000-a-red-apple-7.png","sha256":"e3b0..."}   a picture that is complete and on disk

A line is one write, on disk before the next job counts as done. A process that is killed in the middle leaves
a torn last line, which nobody reads and which the next one to append cuts off. Several processes may append at once:
each holds the lock of the file while it does, so that only the last line can ever be torn.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import MlxdiffWarning, OutputError
from ..files import output_error

NAME = "mlxdiff-journal.jsonl"
# What flock answers on a file system without locks.
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


@dataclass(frozen=True)
class Run:
    """How a command numbers and groups its jobs; `run` is a hash of what the command asked for."""

    run: str
    seed: int
    batch_size: int


@dataclass(frozen=True)
class Done:
    """One picture: `id` is its job's, `path` relative to the journal, the hashes are of whole files."""

    id: str
    path: str
    sha256: str
    latents: str | None = None
    trajectory: str | None = None


class Journal:
    """The journal in `folder`, which need not exist yet; `runs` and `done` are as of the last `refresh`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.runs: dict[str, Run] = {}
        self.done: dict[str, Done] = {}
        self._read = 0  # bytes that have been taken in, up to the end of a line
        self._warned = False
        self.refresh()

    def refresh(self) -> None:
        """Takes in the lines that were added since; says once that some are damaged. Raises OutputError."""
        try:
            with open(self.path, "rb") as file:
                if os.fstat(file.fileno()).st_size < self._read:  # somebody cut or replaced it
                    self.runs, self.done, self._read = {}, {}, 0
                file.seek(self._read)
                fresh = file.read()
        except FileNotFoundError:
            return
        except OSError as error:
            raise OutputError(
                f"The journal {self.path} cannot be read ({error.strerror}).", "Check the disk and its permissions."
            ) from error
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._read += len(whole)
        damaged = sum(not self._take(line) for line in whole.splitlines())
        if damaged and not self._warned:
            self._warned = True
            lines = "1 line" if damaged == 1 else f"{damaged} lines"
            warnings.warn(
                MlxdiffWarning(
                    f"The journal {self.path} has {lines} that cannot be read: what they said is done again."
                ),
                stacklevel=2,
            )

    def begin(self, wanted: Run) -> Run:
        """The run recorded under this hash, or `wanted`, which is then recorded. Creates the folder and the journal."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked(os.O_CREAT) as descriptor:
                self.refresh()
                if wanted.run not in self.runs:
                    self._append(descriptor, asdict(wanted))
        except OSError as error:
            raise output_error(self.path, error) from error
        self.refresh()
        return self.runs[wanted.run]

    def append(self, done: Done) -> None:
        """Records a finished picture, on disk when this returns; raises OutputError, and then nothing was recorded."""
        try:
            with self._locked() as descriptor:
                self._append(descriptor, {key: value for key, value in asdict(done).items() if value is not None})
        except OSError as error:
            raise output_error(self.path, error) from error
        self.done[done.id] = done

    @property
    def exists(self) -> bool:
        return self.path.is_file()

    @contextmanager
    def _locked(self, flags: int = 0) -> Iterator[int]:
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | flags, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in NO_LOCKS:  # one process at a time is still safe; claims.py says so
                    raise
            yield descriptor
        finally:
            os.close(descriptor)

    def _append(self, descriptor: int, values: dict[str, Any]) -> None:
        size = os.fstat(descriptor).st_size
        size -= _torn(descriptor, size)
        os.ftruncate(descriptor, size)
        line = json.dumps(values, sort_keys=True, separators=(",", ":")).encode() + b"\n"
        try:
            if os.write(descriptor, line) < len(line):  # what a full disk does to a write in its middle
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            raise

    def _take(self, line: bytes) -> bool:
        """Whether the line is one of the two kinds."""
        try:
            values = json.loads(line)
            if "run" in values:
                run = Run(**values)
                if not _are(int, run.seed, run.batch_size) or not _are(str, run.run) or run.batch_size < 1:
                    return False
                self.runs.setdefault(run.run, run)
            else:
                done = Done(**values)
                if not _are(str, done.id, done.path, done.sha256) or not all(
                    isinstance(digest, str | None) for digest in (done.latents, done.trajectory)
                ):
                    return False
                self.done[done.id] = done
        except (ValueError, TypeError, RecursionError):
            return False
        return True


def _are(kind: type, *values: object) -> bool:
    return all(type(value) is kind for value in values)


def _torn(descriptor: int, size: int) -> int:
    """Bytes after the last newline."""
    position, block = size, 4096
    while position > 0:
        start = max(0, position - block)
        found = os.pread(descriptor, position - start, start).rfind(b"\n")
        if found >= 0:
            return size - (start + found + 1)
        position = start
    return size


def hash_of(*texts: str) -> str:
    """A name for what the texts say, 32 hexadecimal digits."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:32]
