"""Which files are what their hash says, because they were read and have not changed since.

Kept beside mlxdiff's own state. An entry holds while the file's size, times and inode are what they were; losing the
record costs reading the files again.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..files import atomic_write, open_regular
from .client import Stopped
from .reference import DIGEST
from .state import home

_READ = 2**20
_LARGEST = 32 * 2**20  # bytes of the record
# A file may change again within the clock's tick in which its times were taken: one so young is read once more.
_TICK = 50_000_000  # ns
_SLOW_TO_READ = 64 * 2**20  # bytes

Verified = dict[str, list[Any]]
"""A file's real path -> its hash, size, two times and inode, and when they were taken (ns since 1970)."""


def digest_of(path: Path, kind: str, stop: threading.Event | None = None) -> str:
    """A file's hash, of the kind that `kind` is: 64 hex digits are SHA-256, 40 are git's SHA-1 of a blob.

    Raises Stopped once `stop` is set, OSError for what cannot be read or is no regular file.
    """
    with open_regular(path) as stream:
        if len(kind) == 64:
            digest = hashlib.sha256()
        else:
            digest = hashlib.sha1(b"blob %d\0" % os.fstat(stream.fileno()).st_size, usedforsecurity=False)
        while block := stream.read(_READ):
            if stop is not None and stop.is_set():
                raise Stopped
            digest.update(block)
    return digest.hexdigest()


def read_verified() -> Verified:
    """What is remembered; entries that make no sense are left out."""
    try:
        with open_regular(_record_file()) as stream:
            content = stream.read(_LARGEST + 1)
        files = json.loads(content)["files"] if len(content) <= _LARGEST else {}
        return {path: entry for path, entry in files.items() if _is_entry(entry)}
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return {}


def is_verified(verified: Verified, path: Path, digest: str) -> bool:
    """Whether this file was read before, had this hash, and has not changed since."""
    entry, now = verified.get(os.path.realpath(path)), fingerprint(path)
    return (
        entry is not None and now is not None and entry[:-1] == [digest, *now] and is_older_than_a_tick(now, entry[-1])
    )


def recorded_digest(verified: Verified, path: Path) -> str | None:
    """The hash that a file had when it was read last, whatever has happened to it since; None where it never was."""
    entry = verified.get(os.path.realpath(path))
    return None if entry is None else entry[0]


def entry_of(path: Path, digest: str) -> Verified:
    """What there is to remember of a file whose hash is about to be compared, or just was; nothing if it is gone."""
    now = fingerprint(path)
    return {} if now is None else {os.path.realpath(path): [digest, *now, time.time_ns()]}


def record(added: Verified) -> None:
    """Adds entries of files that were read and found sound. Files that are gone are forgotten."""
    if not added:
        return
    added = _older_than_a_tick(added)
    kept = {path: entry for path, entry in read_verified().items() if os.path.exists(path)}
    content = json.dumps({"files": {**kept, **added}}, indent=0, sort_keys=True).encode()
    with suppress(OutputError):  # nothing is lost but time
        atomic_write(_record_file(), lambda stream: stream.write(content), force=True)


def _older_than_a_tick(added: Verified) -> Verified:
    """The same, taken once more for files that are too young to be believed; for large ones it waits that long."""
    young = {path for path, entry in added.items() if entry[3] + _TICK >= entry[-1]}
    if any(added[path][1] > _SLOW_TO_READ for path in young):
        time.sleep(2 * _TICK / 1e9)
    again = {path: entry for path in young for entry in entry_of(Path(path), added[path][0]).values()}
    unchanged = {path: entry for path, entry in again.items() if entry[:-1] == added[path][:-1]}
    return {**added, **unchanged}


def fingerprint(path: Path) -> tuple[int, int, int, int] | None:
    """Size, time of the content, time of any change, inode. Who sets the second back cannot set the third back."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def is_older_than_a_tick(now: tuple[int, int, int, int], taken: int) -> bool:
    """Whether a file had not changed for a tick of the clock when its fingerprint was taken (ns since 1970)."""
    return now[2] + _TICK < taken


def _record_file() -> Path:
    return home() / "verified.json"


def _is_entry(entry: Any) -> bool:
    return (
        type(entry) is list
        and len(entry) == 6
        and isinstance(entry[0], str)
        and DIGEST.fullmatch(entry[0]) is not None
        and all(type(number) is int for number in entry[1:])
    )
