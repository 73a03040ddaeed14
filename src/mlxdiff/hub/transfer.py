"""One file from the hub to its place in the cache: taken up where it broke off, checked, and only then named.

What has arrived stays in blobs/HASH.incomplete, also when the process is killed, and the next pull goes on from there.
The blob's name is the hash of its content, so a wrong byte is found whatever way it came in.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError, MlxdiffError
from .retry import pause_before_retry

REPORT_EVERY = 0.1  # seconds
_READ = 2**20


@dataclass(frozen=True)
class Source:
    """A file on the hub and where it goes: its address, its bytes, its hash (SHA-256, or git's), its blob and lock."""

    label: str
    url: str
    headers: Mapping[str, str]
    size: int
    digest: str
    blob: Path
    lock: Path

    @property
    def part(self) -> Path:
        return part_of(self.blob)


class Stopped(Exception):
    """Another file failed, or the user interrupted: what has arrived stays for the next pull."""


@dataclass
class _Tag:
    """The entity tag under which a file's bytes came in this process. Its hash alone guards what another one left."""

    value: str | None = None


class _Cut(MlxdiffError):
    """The body ended early, or did not begin where it should."""


def part_of(blob: Path) -> Path:
    """Where a blob grows."""
    return blob.with_name(f"{blob.name}.incomplete")


def size_of(path: Path) -> int | None:
    """A file's bytes; None where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def digest_of(path: Path, kind: str) -> str:
    """A file's hash, of the kind that `kind` is: 64 hex digits are SHA-256, 40 are git's SHA-1 of a blob."""
    with open(path, "rb") as stream:
        if len(kind) == 64:
            digest = hashlib.sha256()
        else:
            digest = hashlib.sha1(b"blob %d\0" % os.fstat(stream.fileno()).st_size, usedforsecurity=False)
        while block := stream.read(_READ):
            digest.update(block)
    return digest.hexdigest()


def bring(source: Source, report: Callable[[int], None], stop: threading.Event, *, anew: bool = False) -> None:
    """Leaves the complete, verified file at `source.blob`; `anew` also where there is one of that size already.

    report  called with the bytes that have arrived, which may also become fewer: damaged ones start over. All of them
            are reported once, when they have been checked
    stop    ends the transfer from another thread, with Stopped
    Raises CheckpointError where what arrives is not what the hub lists; the hub's own errors when patience is over.
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
        if size_of(source.blob) != source.size or (anew and not changed):
            _complete(source, partly, stop)
    report(source.size)


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
        if digest_of(source.part, source.digest) == source.digest:
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
    failures, tag = 0, _Tag()
    while True:
        had = size_of(source.part) or 0
        try:
            _continue(source, tag, report, stop)
            return
        except (Stopped, MlxdiffError) as error:
            if not isinstance(error, _Cut):
                raise
            cause: Exception = error
        except Exception as error:
            cause = error
        failures = 0 if (size_of(source.part) or 0) > had else failures + 1
        pause = _pause(cause, failures)
        if pause is None:
            raise cause
        if stop.wait(pause):
            raise Stopped from None


def _pause(cause: Exception, failures: int) -> float | None:
    if not isinstance(cause, _Cut):
        return pause_before_retry(cause, failures)
    return None if failures >= 3 else 0.0


def _continue(source: Source, tag: _Tag, report: Callable[[int], None], stop: threading.Event) -> None:
    """One request for the bytes that are missing."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import hf_raise_for_status

    done = size_of(source.part) or 0
    if done > source.size:
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
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", source.url, headers=headers, follow_redirects=True, timeout=timeout) as response:
        if response.status_code == 416:
            source.part.unlink()
            raise _Cut(f"The hub has no byte {done} of {source.label}.", "Run the same command again.")
        if response.status_code >= 400:
            response.read()
        hf_raise_for_status(response)
        start = _start(response, source, done)
        tag.value = response.headers.get("ETag")
        if tag.value is not None and tag.value.startswith("W/"):  # which If-Range must not have (RFC 9110, 13.1.5)
            tag.value = None
        _write(response, source, start, report, stop)


def _start(response, source: Source, done: int) -> int:
    """The first byte that this answer brings: 0 where the server does not do ranges, or has another file by now."""
    start, rest = 0, response.headers.get("Content-Length", "")
    if response.status_code == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if match is None or int(match[1]) != done or match[2] not in ("*", str(source.size)):
            source.part.unlink(missing_ok=True)
            raise _Cut(f"The hub sent another part of {source.label}.", "Run the same command again.")
        start = done
    encoded = response.headers.get("Content-Encoding", "identity") != "identity"
    if response.status_code not in (200, 206) or (
        rest.isdecimal() and not encoded and int(rest) != source.size - start
    ):
        raise _no_hub(source)
    return start


def _write(response, source: Source, start: int, report: Callable[[int], None], stop: threading.Event) -> None:
    told = time.monotonic()
    # Unbuffered: what has arrived survives a kill.
    with open(source.part, "r+b" if start else "wb", buffering=0) as stream:
        done = stream.seek(start)
        report(done)
        for block in response.iter_bytes():
            if stop.is_set():
                raise Stopped
            done += len(block)
            if done > source.size:
                raise _no_hub(source)
            rest = memoryview(block)
            while rest:  # an unbuffered write may take less
                rest = rest[stream.write(rest) :]
            if time.monotonic() - told >= REPORT_EVERY:
                told = time.monotonic()
                report(done)
    if done < source.size:
        raise _Cut(f"{source.label} broke off at byte {done}.", "Run the same command again.")


def _no_hub(source: Source) -> MlxdiffError:
    from huggingface_hub import constants

    return MlxdiffError(
        f"{constants.ENDPOINT} does not answer as a hub does: it sent something else for {source.label}.",
        "Check HF_ENDPOINT and any proxy.",
    )


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
