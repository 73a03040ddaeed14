"""Lines of this shell and of earlier ones, in a file of mlxdiff's own folder that nobody else may read.

A line is appended as soon as it is typed, in one write under the file's lock, so that two shells lose none of each
other's, and a killed one loses nothing. When a shell starts and the file is long, its newest lines take its place.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import MlxdiffError, OutputError
from ...files import NO_LOCKS, atomic_write, is_at, open_regular, output_error
from ...printable import printable

NAME = "shell-history"
KEPT = 2000  # lines
MAX_BYTES = 2**20  # that are read; a longer file is cut
MAX_LINE = 2**14  # characters; a longer line is not remembered
_PRIVATE = 0o600
_TRIES = 10


class History:
    """The file `path`. Raises nothing: what keeps it from being used is in `problem`, and the shell goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: MlxdiffError | None = None
        self._last = ""

    def read(self) -> list[str]:
        """The newest lines, oldest first, as they may be printed. Cuts a file that has grown long."""
        try:
            lines, is_long = self._read()
            if is_long:
                with self._locked() as _:
                    lines, is_long = self._read()
                    if is_long:  # else another shell has just done it
                        text = "".join(f"{line}\n" for line in lines[-KEPT // 2 :])
                        atomic_write(self.path, lambda stream: _write_private(stream.fileno(), text), force=True)
        except (OSError, ValueError, MlxdiffError) as error:
            self._give_up(error)
            return []
        self._last = lines[-1] if lines else ""
        return lines[-KEPT:]

    def add(self, line: str) -> bool:
        """Appends a line, and says whether it is to be remembered: not one like the last, or with a blank in front."""
        if not line.strip() or line.startswith(" ") or line == self._last or len(line) > MAX_LINE:
            return False
        self._last = line
        if self.problem is not None:
            return True
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked() as descriptor:
                _write_private(descriptor, f"{line}\n")
        except (OSError, ValueError, MlxdiffError) as error:
            self._give_up(error)
        return True

    def _read(self) -> tuple[list[str], bool]:
        try:
            with open_regular(self.path) as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(max(0, size - MAX_BYTES))
                data = file.read(MAX_BYTES)
        except FileNotFoundError:
            return [], False
        whole = data if size <= MAX_BYTES else data[data.find(b"\n") + 1 :]
        texts = (printable(text) for text in whole.decode("utf-8", "replace").split("\n"))
        lines = [text for text in texts if text.strip()]
        return lines, size > MAX_BYTES or len(lines) > 2 * KEPT

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The file, open to append and held: whoever cut it meanwhile has put another one in its place."""
        for _ in range(_TRIES):
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW
            descriptor = os.open(self.path, flags, _PRIVATE)
            try:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                except OSError as error:
                    if error.errno not in NO_LOCKS:
                        raise
                if is_at(self.path, descriptor):
                    yield descriptor
                    return
            finally:
                os.close(descriptor)
        raise OutputError(f"{self.path} is replaced again and again.", "See which program does it.")

    def _give_up(self, error: Exception) -> None:
        known = isinstance(error, MlxdiffError)
        self.problem = error if known else output_error(self.path, error)  # type: ignore[assignment, arg-type]


def _write_private(descriptor: int, text: str) -> None:
    os.fchmod(descriptor, _PRIVATE)
    data = text.encode("utf-8", "replace")
    while data:
        data = data[os.write(descriptor, data) :]
