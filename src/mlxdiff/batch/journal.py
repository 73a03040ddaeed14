"""What a run has finished, as a file beside the pictures: JSON Lines that are only ever appended to.

    {"batch_size":4,"run":"5d0c...","seed":7,"sum":"27e1..."}            how a command cuts and seeds its jobs
    {"bytes":31052,"id":"91ab...","of":["5d0c...",7,4],"path":"00000-a-red-apple-7.png","seed":7,"sha256":"e3b0...",
     "sum":"b94d..."}                                                    a picture that is complete and on disk

A line is one write, on disk before the next job counts as done. `sum` is the start of the SHA-256 of the line without
it: a line of which a digit changed is not believed. Lines of mlxdiff 0.1 have none, and are. A process that is killed
in the middle leaves a torn last line, which is ignored, and which the next one to append cuts off. Several processes
may append at once: each holds the lock of the file while it does, so that only the last line can ever be torn.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import MlxdiffWarning, OutputError
from ..files import NO_LOCKS, open_regular, output_error

NAME = "mlxdiff-journal.jsonl"
SUM = "sum"


@dataclass(frozen=True)
class Run:
    """How a command numbers and groups its jobs; `run` is a hash of what the command asked for."""

    run: str
    seed: int
    batch_size: int


@dataclass(frozen=True)
class Done:
    """One picture: `id` is its job's, `path` relative to the journal, the hashes are of whole files.

    bytes   how long the picture's file is
    inputs  a hash of the contents of the files that its request names, if it names any
    seed    its seed, where that was counted for it
    of      the run that made it, as (run, seed, batch size): a damaged line of the run itself then loses nothing
    """

    id: str
    path: str
    sha256: str
    latents: str | None = None
    trajectory: str | None = None
    bytes: int | None = None
    inputs: str | None = None
    seed: int | None = None
    of: tuple[str, int, int] | None = None


class Journal:
    """The journal in `folder`, which need not exist yet; `runs` and `done` are as of the last `refresh`.

    `before_first`, if it is set, is called before the first picture is written.
    """

    def __init__(self, folder: Path, name: str = NAME) -> None:
        self.path = folder / name
        self.runs: dict[str, Run] = {}
        self.done: dict[str, Done] = {}
        self.run: Run | None = None  # which this process continues
        self.before_first: Callable[[], None] | None = None
        self._read = 0  # bytes that have been taken in, up to the end of a line
        self._warned = False
        self.refresh()

    def refresh(self) -> None:
        """Takes in the lines that were added since; says once that some are damaged. Raises OutputError."""
        try:
            with open_regular(self.path) as file:
                if os.fstat(file.fileno()).st_size < self._read:  # another program cut or replaced it
                    self.runs, self.done, self._read = {}, {}, 0
                file.seek(self._read)
                fresh = file.read()
        except (FileNotFoundError, NotADirectoryError):
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
                    f"The journal {self.path} has {lines} that cannot be read: those pictures are looked at again."
                ),
                stacklevel=2,
            )

    def begin(self, wanted: Run, instead_of: Run | None = None) -> Run:
        """The run recorded under this hash, or `wanted`, which is then recorded. Creates the folder and the journal.

        A record that equals `instead_of` is replaced by `wanted`.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked(os.O_CREAT) as descriptor:
                self.refresh()
                if self.runs.get(wanted.run) in (None, instead_of) and self.runs.get(wanted.run) != wanted:
                    self._append(descriptor, asdict(wanted))
        except OSError as error:
            raise output_error(self.path, error) from error
        self.refresh()
        self.run = self.runs[wanted.run]
        return self.run

    def prepare(self) -> None:
        """What has to be known before the first picture is on disk: a process may be killed between it and its line."""
        if self.before_first is not None:
            self.before_first()
            self.before_first = None

    def append(self, done: Done) -> None:
        """Records a finished picture, on disk when this returns; raises OutputError, and then nothing was recorded."""
        self.prepare()
        if self.run is not None:
            done = replace(done, of=(self.run.run, self.run.seed, self.run.batch_size))
        try:
            with self._locked() as descriptor:
                self._append(descriptor, {key: value for key, value in asdict(done).items() if value is not None})
        except OSError as error:
            raise output_error(self.path, error) from error
        self.done[done.id] = done

    def find(self, identity: str, former: str) -> Done | None:
        """What is known of a job, by its identity or by the one that mlxdiff 0.1 gave it."""
        return self.done.get(identity, self.done.get(former))

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
        line = _text(values | {SUM: _sum(values)}).encode() + b"\n"
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
            found = parse_line(line)
        except ValueError:
            return False
        if isinstance(found, Run):
            self.runs[found.run] = found
        else:
            self.done[found.id] = found
            if found.of is not None:
                self.runs.setdefault(found.of[0], Run(*found.of))
        return True


def parse_line(line: bytes) -> Run | Done:
    """What a line of a journal says; raises ValueError for one that is not to be believed."""
    try:
        values = json.loads(line)
        if not isinstance(values, dict) or (SUM in values and values.pop(SUM) != _sum(values)):
            raise ValueError("it was changed")
        if "run" not in values:
            return _done(values)
        run = Run(**values)
        if not _are(int, run.seed, run.batch_size) or not _are(str, run.run) or run.batch_size < 1:
            raise ValueError(values)
    except (TypeError, RecursionError) as error:
        raise ValueError("it is no line of a journal") from error
    return run


def _done(values: dict[str, Any]) -> Done:
    """Raises TypeError or ValueError for a line that says something else."""
    of = values.pop("of", None)
    if of is not None:
        run, seed, size = of
        if not _are(str, run) or not _are(int, seed, size) or size < 1:
            raise ValueError(of)
        of = run, seed, size
    done = Done(**values, of=of)
    texts = (done.latents, done.trajectory, done.inputs)
    numbers = (done.bytes, done.seed)
    if not _are(str, done.id, done.path, done.sha256, *(text for text in texts if text is not None)):
        raise TypeError(values)
    if not _are(int, *(number for number in numbers if number is not None)):
        raise TypeError(values)
    return done


def _text(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def _sum(values: dict[str, Any]) -> str:
    return hashlib.sha256(_text(values).encode("utf-8", "surrogatepass")).hexdigest()[:8]


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
