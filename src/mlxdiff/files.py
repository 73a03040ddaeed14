"""Files that appear whole or not at all, and never over one that the user did not offer.

Everything mlxdiff writes goes through `atomic_write`. What the operating system refuses becomes an OutputError. What
others wrote is opened with `open_regular`.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import secrets
import stat
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from .errors import OutputError

# What flock answers on a file system without locks.
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
PARTS = ".mlxdiff-*.part"  # unfinished files
_TRIES = 10
_ABANDONED = 3600  # seconds
_FULL = {errno.ENOSPC, errno.EDQUOT}
# File systems without hard links (FAT, some network shares) answer os.link with one of these.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL}


def atomic_write(path: str | Path, write: Callable[[BinaryIO], object], *, force: bool = False) -> None:
    """Creates the file `path` with what `write` puts into the stream it is given, and the folders above it.

    The stream is a hidden file beside `path` that takes its name when it is complete and on disk; any error or
    interrupt removes it. Raises OutputError when the system refuses, or when, without `force`, `path` exists by then.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise _is_a_folder(path)
        _make_folder(path.parent)
        part, stream = _open_part(path.parent)
        try:
            with stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
                if force:
                    os.replace(part, path)
                else:
                    _take_name(part, path)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) and "\0" not in str(path):
            raise
        raise output_error(path, error) from error


def mistaken_for(start: bytes) -> str | None:
    """What a file is that was saved in another one's place, from its first bytes: "a Git LFS pointer"; or None."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs.github.com/"):
        return "a Git LFS pointer (the address of a file)"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return "a web page (HTML)"
    if text.startswith((b'{"', b"{}", b"[")) or re.match(rb"\{\s*\"", text):
        return "JSON, perhaps a server's error message"
    if text.startswith((b"access to model", b"repository not found", b"entry not found", b"invalid username")):
        return "a server's error message"
    return None


def open_regular(path: Path) -> BinaryIO:
    """Opens a file for reading; OSError for what is none. A pipe would wait for ever, a device might never end.

    Looked at before, since to open a device may do something, and after, since another file may have its name by then.
    """
    _check_regular(path.stat(), path)
    stream = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 (the caller closes it)
    try:
        _check_regular(os.fstat(stream.fileno()), path)
    except OSError:
        stream.close()
        raise
    return stream


def _check_regular(about: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(about.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def remove_parts(folder: str | Path, *, ours: bool = False) -> None:
    """Removes the unfinished files that processes left in `folder` when they were killed.

    A living process, of this machine or of another one, holds the lock of its file. With `ours` those of this process
    are removed instead, which is then about to end without unwinding.
    """
    for part in Path(folder).glob(PARTS):
        with suppress(OSError):
            if ours:
                if part.name.startswith(_own_parts()):
                    part.unlink()
            elif is_left(part):
                part.unlink()


def is_full(error: BaseException) -> bool:
    """Whether an OutputError, or the OSError behind it, says that the disk is full."""
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno in _FULL


def is_at(path: Path, descriptor: int) -> bool:
    """Whether the path is still a name of the open file."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    own = os.fstat(descriptor)
    return (found.st_ino, found.st_dev) == (own.st_ino, own.st_dev)


def check_writable(path: str | Path, *, force: bool = False) -> None:
    """Raises the OutputError that `atomic_write` would raise, as far as it can be known before; changes nothing.

    For minutes of rendering not to be lost. Folders that are missing are no error: `atomic_write` creates them.
    """
    path = Path(path)
    try:
        if _exists(path):
            if path.is_dir():
                raise _is_a_folder(path)
            if not force:
                raise _exists_already(path)
        folder = os.path.dirname(path) or os.curdir
        while not _exists(folder):
            folder = os.path.dirname(folder) or os.curdir
    except (OSError, ValueError) as error:
        raise output_error(path, error) from error
    if not os.path.isdir(folder):
        raise output_error(path, NotADirectoryError(errno.ENOTDIR, "", folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        is_read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        raise output_error(path, PermissionError(errno.EROFS if is_read_only else errno.EACCES, "", folder))


def output_error(path: Path, error: OSError | ValueError) -> OutputError:
    """The words for what the system said when `path` was to be written."""
    number = error.errno if isinstance(error, OSError) else errno.EINVAL
    match number:
        case errno.EEXIST:
            return _exists_already(path)
        case errno.EISDIR:
            return _is_a_folder(path)
        case errno.ENOTDIR:
            return OutputError(f"{path} cannot be written, since a part of its path is a file.", "Name another folder.")
        case errno.EACCES | errno.EPERM:
            return OutputError(f"There is no permission to write {path}.", "Name a folder that is yours.")
        case errno.EROFS:
            return OutputError(f"{path} cannot be written on a read-only disk.", "Name a folder elsewhere.")
        case errno.ENOSPC | errno.EDQUOT:
            return OutputError(f"The disk is full, or your share of it: {path} was not written.", "Free some space.")
        case errno.ENAMETOOLONG:
            return OutputError(f"The name {path.name[:40]}... is too long for a file.", "Choose a shorter one.")
    reason = os.strerror(number) if number is not None else str(error)
    return OutputError(f"{path} cannot be written ({reason}).", "Check the path, or name another.")


def _open_part(folder: Path) -> tuple[Path, BinaryIO]:
    """A new hidden file, locked for as long as it is open.

    It has a name of its own, not the target's with a suffix: that could be too long where the target's is not.
    """
    for tries_left in reversed(range(_TRIES)):
        part = folder / f"{_own_parts()}{secrets.token_hex(6)}.part"
        stream = open(part, "xb")  # noqa: SIM115 (the caller closes it)
        try:
            # Another process that cleans up may have had the lock first, and then the name is gone.
            if tries_left == 0 or (not _is_held(stream.fileno()) and is_at(part, stream.fileno())):
                return part, stream
        except OSError:  # a file system without locks: the name says whose the file is
            return part, stream
        stream.close()
    raise AssertionError


def _is_held(descriptor: int) -> bool:
    """Takes the lock of an open file, or says that another has it; OSError where the file system has no locks."""
    import fcntl  # which Windows has not, and this module is imported everywhere

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def is_left(part: Path) -> bool:
    """Whether the process that made an unfinished file is gone; raises OSError.

    Its lock is free then. But a lock that another machine holds may not be seen on a network file system, and without
    locks nothing but the process' number is known: so what others made must have been left alone for an hour.
    """
    _, host, process, *_ = [*part.name.split("-"), "", ""]
    if host != _host() and time.time() - part.stat().st_mtime < _ABANDONED:
        return False
    descriptor = os.open(part, os.O_RDWR | os.O_NONBLOCK)
    try:
        return not _is_held(descriptor) and is_at(part, descriptor)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return host == _host() and process.isdecimal() and not _is_alive(int(process))
    finally:
        os.close(descriptor)


def _own_parts() -> str:
    return f".mlxdiff-{_host()}-{os.getpid()}-"


@cache
def _host() -> str:
    """A short name for the machine and the space of process numbers: containers may share a machine's name."""
    about = [platform.node()]
    for source in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text(),
        lambda: str(os.stat("/proc/self/ns/pid").st_ino),
    ):
        with suppress(OSError):  # Linux alone has them
            about.append(source())
    return f"{zlib.crc32(' '.join(about).encode()):08x}"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:  # a file of that name: not the same complaint as a target that exists
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None


def _take_name(part: Path, path: Path) -> None:
    """Gives the finished file its name unless the name is taken; os.rename would overwrite."""
    try:
        os.link(part, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with open(path, "xb"):  # takes the name, or fails; from here on the empty file is ours to replace
            pass
        os.replace(part, path)


def _exists(path: str | Path) -> bool:
    """Like Path.exists, but true for a dangling link, and loud where the name cannot be looked up."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _exists_already(path: Path) -> OutputError:
    return OutputError(f"{path} exists already.", "Name another file, or overwrite it with --force.")


def _is_a_folder(path: Path) -> OutputError:
    return OutputError(f"{path} is a folder.", "Name a file in it.")
