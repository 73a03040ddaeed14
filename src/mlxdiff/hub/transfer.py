"""One file from the hub to its place in the cache: taken up where it broke off, checked, and only then named.

What has arrived stays in blobs/HASH.incomplete, also when the process is killed, and the next pull goes on from there.
The blob's name is the hash of its content, so a wrong byte is found whatever way it came in.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError, MlxdiffError
from .client import Answer, Refused, Stopped, TooSlow, Unreachable, answered, no_hub
from .retry import SLOW_TRIES, pause_before_retry
from .verified import Verified, digest_of, is_verified

REPORT_EVERY = 0.1  # seconds
# How much patience one file is worth, however its transfer goes on breaking off:
REQUESTS = 20  # and one more for each PER_REQUEST bytes
PER_REQUEST = 4 * 2**20
RESTARTS = 5  # from its first byte
WAITING = 600.0  # seconds between requests, in all

_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)")


@dataclass(frozen=True)
class Source:
    """A file on the hub and where it goes: its address, its bytes, its hash (SHA-256, or git's), its blob and lock, and
    its place in the snapshot."""

    label: str
    url: str
    headers: Mapping[str, str]
    size: int
    digest: str
    blob: Path
    lock: Path
    pointer: Path

    @property
    def part(self) -> Path:
        return part_of(self.blob)


@dataclass
class _Tag:
    """The entity tag under which a file's bytes came in this process. Its hash alone guards what another one left."""

    value: str | None = None


class _Cut(MlxdiffError):
    """The body ended early, or did not begin where it should."""


@dataclass
class _Patience:
    """What one file's transfer has used up of its bounds."""

    source: Source
    furthest: int
    requests: int = 0
    restarts: int = 0
    failures: int = 0  # in a row, without a byte more than ever before
    slow: int = 0
    waited: float = 0.0

    def begin(self, done: int) -> None:
        self.requests += 1
        self.restarts += done == 0 and self.furthest > 0
        allowed = REQUESTS + self.source.size // PER_REQUEST
        if self.requests > allowed or self.restarts > RESTARTS:
            raise MlxdiffError(
                f"{self.source.label} broke off too often: {self.requests - 1} requests did not bring it.",
                "Run the same command again later; what has arrived is kept.",
            )

    def after(self, cause: Exception, done: int) -> float:
        """Seconds to wait before the next request; raises `cause` where there should be none."""
        self.slow += isinstance(cause, TooSlow)
        self.failures = 0 if done > self.furthest else self.failures + 1
        self.furthest = max(self.furthest, done)
        if isinstance(cause, _Cut):
            pause = None if self.failures >= 3 else 0.0
        else:
            pause = pause_before_retry(cause, self.failures)
        if pause is None or self.slow >= SLOW_TRIES or self.waited + pause > WAITING:
            raise cause
        self.waited += pause
        return pause


def part_of(blob: Path) -> Path:
    """Where a blob grows."""
    return blob.with_name(f"{blob.name}.incomplete")


def size_of(path: Path) -> int | None:
    """A file's bytes; None where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def is_plain(path: Path) -> bool:
    """Whether a path is a regular file itself: a link would be written through, a pipe waited for."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def bring(
    source: Source, report: Callable[[int], None], stop: threading.Event, verified: Verified, *, anew: bool = False
) -> None:
    """Shows the complete, verified file at `source.pointer`; fetched `anew` also where there is a sound one already.

    report  called with the bytes that have arrived, which may also become fewer: damaged ones start over. All of them
            are reported once, when they have been checked
    stop    ends the transfer from another thread, with Stopped
    verified  what has been read and found sound before; a blob that is there is read again unless it is in this
    Raises CheckpointError where what arrives is not what the hub lists; the client's own errors when patience is over.
    """
    from huggingface_hub.utils import WeakFileLock

    source.blob.parent.mkdir(parents=True, exist_ok=True)
    source.lock.parent.mkdir(parents=True, exist_ok=True)
    before = _identity(source.blob)

    def partly(done: int) -> None:
        if done < source.size:
            report(done)

    with ExitStack() as locked:
        while True:  # another process or thread may be bringing the same file
            try:
                locked.enter_context(WeakFileLock(source.lock, timeout=0.5))
                break
            except TimeoutError:
                if stop.is_set():
                    raise Stopped from None
                partly(size_of(source.part) or 0)
        changed = _identity(source.blob) != before
        if (anew and not changed) or not _is_there(source, verified, stop):
            _complete(source, partly, stop)
        # Under the lock: without links it takes the blob away, which another file of the same content may wait for.
        link(source.blob, source.pointer)
    report(source.size)


def _is_there(source: Source, verified: Verified, stop: threading.Event) -> bool:
    """Whether the blob is there and sound: its size alone says nothing of what is in it."""
    if size_of(source.blob) != source.size:
        return False
    return (
        is_verified(verified, source.blob, source.digest)
        or digest_of(source.blob, source.digest, stop) == source.digest
    )


def link(blob: Path, pointer: Path) -> None:
    """Shows a blob in a snapshot: a relative link, or the file itself where the system has no links."""
    from huggingface_hub import constants

    pointer.parent.mkdir(parents=True, exist_ok=True)
    target = os.path.relpath(blob, pointer.parent)
    if pointer.is_symlink() and os.readlink(pointer) == target:
        return
    if not getattr(constants, "HF_HUB_DISABLE_SYMLINKS", False):
        # Under another name first, so that the pointer is there at every moment.
        new = pointer.with_name(f".{secrets.token_hex(6)}.link")
        try:
            os.symlink(target, new)
            os.replace(new, pointer)
            return
        except OSError:
            with suppress(OSError):
                new.unlink()
    os.replace(blob, pointer)


def _complete(source: Source, report: Callable[[int], None], stop: threading.Event) -> None:
    """Fetches what is missing and checks the whole; begins once more where it is damaged."""
    for last in (False, True):
        _fetch(source, report, stop)
        if digest_of(source.part, source.digest, stop) == source.digest:
            with open(source.part, "rb+") as stream:
                os.fsync(stream.fileno())
            os.replace(source.part, source.blob)
            return
        source.part.unlink()
        if last:
            raise CheckpointError(
                f"{source.label} arrived damaged twice: its hash is not the one that the hub lists. It was removed.",
                "Run the same command again later, or check what stands between here and the hub.",
            )


def _fetch(source: Source, report: Callable[[int], None], stop: threading.Event) -> None:
    tag, patience = _Tag(), _Patience(source, size_of(source.part) or 0)
    while True:
        patience.begin(size_of(source.part) or 0)
        try:
            _continue(source, tag, report, stop)
            return
        except (_Cut, Unreachable) as error:
            cause: Exception = error
        except (Stopped, MlxdiffError):
            raise
        except Exception as error:
            cause = error
        if stop.wait(patience.after(cause, size_of(source.part) or 0)):
            raise Stopped from None


def _continue(source: Source, tag: _Tag, report: Callable[[int], None], stop: threading.Event) -> None:
    """One request for the bytes that are missing."""
    done = size_of(source.part) or 0
    if done > source.size or (os.path.lexists(source.part) and not is_plain(source.part)):
        source.part.unlink()
        done = 0
    if done == source.size:
        source.part.touch()  # an empty file has nothing to ask for
        return
    headers = {**source.headers, "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
        if tag.value is not None:
            headers["If-Range"] = tag.value
    try:
        with answered(source.url, headers, stop) as answer:
            start = _start(answer, source, done)
            tag.value = answer.headers.get("ETag")
            # If-Range must not have a weak one (RFC 9110, 13.1.5), and no header what would break it.
            if tag.value is not None and re.fullmatch(r'"[\x21\x23-\x7e]{1,200}"', tag.value) is None:
                tag.value = None
            _write(answer, source, start, report, stop)
    except Refused as error:
        if error.status != 416:
            raise
        source.part.unlink(missing_ok=True)
        raise _Cut(
            f"The hub says that {source.label} has no byte {done} (HTTP 416), although it lists {source.size} bytes.",
            "Run the same command again later.",
        ) from None


def _start(answer: Answer, source: Source, done: int) -> int:
    """The first byte that this answer brings: 0 where the server does not do ranges, or has another file by now."""
    start, length = 0, answer.headers.get("Content-Length", "")
    if answer.status == 206:
        match = _RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
        fits = match is not None and int(match[1]) == done and match[2] in ("*", str(source.size))
        if not fits or answer.is_packed:
            source.part.unlink(missing_ok=True)
            raise _Cut(
                f"The hub sent another part of {source.label} than was asked for.", "Run the same command again."
            )
        start = done
    is_length = re.fullmatch(r"[0-9]{1,18}", length) is not None and not answer.is_packed
    if answer.status not in (200, 206) or (is_length and int(length) != source.size - start):
        raise _no_hub(source)
    return start


def _write(answer: Answer, source: Source, start: int, report: Callable[[int], None], stop: threading.Event) -> None:
    reported = time.monotonic()
    # Unbuffered: what has arrived survives a kill.
    with open(source.part, "r+b" if start else "wb", buffering=0) as stream:
        done = stream.seek(start)
        report(done)
        for block in answer.blocks():
            if stop.is_set():
                raise Stopped
            done += len(block)
            if done > source.size:
                raise _no_hub(source)
            rest = memoryview(block)
            while rest:  # an unbuffered write may take less
                rest = rest[stream.write(rest) :]
            if time.monotonic() - reported >= REPORT_EVERY:
                reported = time.monotonic()
                report(done)
    if done < source.size:
        raise _Cut(f"{source.label} broke off at byte {done}.", "Run the same command again.")


def _no_hub(source: Source) -> MlxdiffError:
    return no_hub(f"it sent something else for {source.label}")


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
