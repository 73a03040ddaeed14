"""Who renders what, among processes that share a folder: a lock file for each picture that is being rendered.

The claim is the lock that the operating system holds for a living process (flock), not the file's existence: when a
process is killed its claims are free the same moment. The file is removed with the claim.

Between machines this is as good as the shared file system's locks: NFS since version 4 and SMB carry them, some
cluster file systems want a mount option (Lustre: `flock`). Where there are none a warning says so, and processes should
then run one after the other.
"""

from __future__ import annotations

import fcntl
import os
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import MlxdiffWarning
from ..files import NO_LOCKS, is_at, output_error

PATTERN = ".mlxdiff-*.lock"


@dataclass(frozen=True)
class Claim:
    """A name that is this process' alone until it is released, or the process ends."""

    path: Path
    descriptor: int

    def release(self) -> None:
        # First the name, then the lock: who opened the file meanwhile finds its name gone, and retries.
        # A disk that refuses leaves an unlocked file, which the next run removes: the pictures are written.
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        with suppress(OSError):
            os.close(self.descriptor)


def take(folder: Path, name: str) -> Claim | None:
    """Claims `name` in the folder, or None while another process has it; raises OutputError where files cannot be made.

    Once it is taken, look again at what is done: the process that had it before may just have finished.
    """
    path = folder / f".mlxdiff-{name}.lock"
    try:
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            if not _lock(descriptor, folder):
                os.close(descriptor)
                return None
            if is_at(path, descriptor):
                return Claim(path, descriptor)
            os.close(descriptor)
    except OSError as error:
        raise output_error(path, error) from error


def take_all(folder: Path, names: Iterable[str]) -> list[Claim] | None:
    """Claims every name, or none and returns None where another process has one of them; raises OutputError."""
    held: list[Claim] = []
    try:
        for name in sorted(names):  # all processes in one order, so that two never have half each
            claim = take(folder, name)
            if claim is None:
                break
            held.append(claim)
        else:
            return held
    except BaseException:
        release(held)
        raise
    release(held)
    return None


def release(claims: Iterable[Claim]) -> None:
    for claim in claims:
        claim.release()


def is_held(path: Path) -> bool:
    """Whether a living process has the claim of a lock file, or may have it; the file stays.

    It is locked for the moment of the look: a process that wants it just then looks elsewhere first.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Removes the lock files of processes that are dead."""
    for path in folder.glob(PATTERN):
        try:
            descriptor = os.open(path, os.O_RDWR)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(path, descriptor):
                path.unlink(missing_ok=True)
        except OSError:
            pass  # alive, or a file system without locks: then the file may be anybody's
        finally:
            os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warnings.warn(
            MlxdiffWarning(f"The file system of {folder} has no locks: run one process at a time there."), stacklevel=4
        )
    return True
