"""A file that is read as one: whoever changes it meanwhile is noticed. Nothing here waits for a pipe."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..files import open_regular
from .fault import UnsoundError

BLOCK = 2**20  # bytes read at once
MAX_BYTES = 2**32  # of a file that is looked at
SETTLED = 0.1  # seconds


@contextmanager
def steady(path: Path) -> Iterator[BinaryIO]:
    """The file, open while in use.

    Raises UnsoundError: `unreadable`, `too-large`, and `changing` where the file is another one at the end, whatever
    else was found until then.
    """
    try:
        stream = open_regular(path)
    except (OSError, ValueError) as error:
        raise _unreadable(error) from None
    with stream:
        before = _state(os.fstat(stream.fileno()))
        if before[2] > MAX_BYTES:
            raise UnsoundError("too-large", f"It has {before[2]} bytes, and at most {MAX_BYTES} are looked at.")
        try:
            yield stream
        except (UnsoundError, OSError) as error:
            if not _is_still(path, stream, before):
                raise _changing() from None
            raise (_unreadable(error) if isinstance(error, OSError) else error) from None
        if not _is_still(path, stream, before):
            raise _changing()


def check_settled(stream: BinaryIO) -> None:
    """Raises UnsoundError, `changing`, for a file that was written a moment ago: clocks of file systems are coarse.

    What is wrong with such a file may be that somebody is writing it.
    """
    if 0 <= time.time() - os.fstat(stream.fileno()).st_mtime < SETTLED:
        raise _changing()


def sha256_of(stream: BinaryIO) -> str:
    """64 hexadecimal digits, of the file from its start."""
    digest = hashlib.sha256()
    stream.seek(0)
    while block := stream.read(BLOCK):
        digest.update(block)
    return digest.hexdigest()


def length_of(stream: BinaryIO) -> int:
    return os.fstat(stream.fileno()).st_size


def _state(about: os.stat_result) -> tuple[int, int, int, int]:
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns


def _is_still(path: Path, stream: BinaryIO, before: tuple[int, int, int, int]) -> bool:
    try:
        return _state(os.fstat(stream.fileno())) == before == _state(os.stat(path))
    except OSError:
        return False


def _changing() -> UnsoundError:
    return UnsoundError("changing", "It was changed while it was read: check it again when nothing writes to it.")


def _unreadable(error: OSError | ValueError) -> UnsoundError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UnsoundError("unreadable", f"It cannot be read ({reason}).")
