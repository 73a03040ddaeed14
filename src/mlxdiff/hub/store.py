"""mlxdiff's own store: parts that came as files, under MLXDIFF_HOME/parts/KIND/NAME.safetensors, found by NAME.

A file is copied, whole or not at all, so that it stays when the original moves. Only what lies there under such a
name is listed or removed.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..checkpoint.kinds import MODEL, kind_of_file
from ..errors import CheckpointError, ModelNotFoundError, OutputError, RequestError, UnsupportedError
from ..files import atomic_write, open_regular, output_error, remove_parts
from ..part_kinds import FILES, KINDS, noun_of
from .reference import SINGLE_FILE, can_name_a_file, shown
from .shelf import store_folder
from .verified import digest_of, entry_of, is_verified, read_verified, record, recorded_digest

_READ = 2**20


@dataclass(frozen=True)
class StoredPart:
    """A part in the store: its kind, the name that finds it, its file, and that file's bytes."""

    kind: str
    name: str
    path: Path
    size: int
    last_used: float = 0.0


def planned_part(source: Path, kind: str | None = None, name: str | None = None) -> StoredPart:
    """What `add_part` would make of a file, from its header alone.

    kind  where the header does not tell; another one than the header's is an error
    name  in place of the file's
    Raises CheckpointError for a damaged file, UnsupportedError for a pickle and for what is no part, RequestError for a
    name that no file can have.
    """
    found = kind_of_file(source)
    if found == MODEL:
        raise UnsupportedError(
            f"{source} is a whole checkpoint, not a part of one.", f"Use it as it is: mlxdiff generate -m {source}"
        )
    if found is None and kind is None:
        raise UnsupportedError(
            f"{source} is no part that mlxdiff knows by its header.", f"Say what it is: --kind {'|'.join(FILES)}"
        )
    if found is not None and kind not in (None, found):
        raise RequestError(
            f"{source} is {KINDS[found].article}, going by its header, not {KINDS[kind].article}.", "Leave --kind out."
        )
    kind = kind or found
    assert kind is not None
    called = source.stem if name is None else name
    called = called[: -len(SINGLE_FILE)] if called.lower().endswith(SINGLE_FILE) else called
    if "/" in called or called.startswith(".") or not can_name_a_file(called):
        raise RequestError(f"{shown(called)} can name no part.", "Give another name with --as, of letters and digits.")
    return StoredPart(kind, called, store_folder(kind) / f"{called}{SINGLE_FILE}", source.stat().st_size)


def add_part(source: Path, kind: str | None = None, name: str | None = None, *, force: bool = False) -> bool:
    """Copies a file into the store as `planned_part` says; False where the same content is there already.

    Raises OutputError where another file has the name, unless `force`, and where the disk is full or not writable.
    """
    part = planned_part(source, kind, name)
    digest = _digest(source)
    if part.path.is_file():
        if _digest(part.path) == digest:
            return False
        if not force:
            raise OutputError(
                f"There is another {noun_of(part.kind)} called {part.name}: {part.path}.",
                "Give this one another name with --as, or overwrite that one with --force.",
            )

    def copy(stream: BinaryIO) -> None:
        copied = hashlib.sha256()
        with open_regular(source) as original:
            while block := original.read(_READ):
                copied.update(block)
                stream.write(block)
        if copied.hexdigest() != digest:
            raise CheckpointError(f"{source} changed while it was read.", "Run the same command again.")

    remove_parts(part.path.parent)  # of copies that were killed
    atomic_write(part.path, copy, force=force)
    record(entry_of(part.path, digest))
    return True


def stored_parts() -> list[StoredPart]:
    """Everything in the store, by kind and name."""
    found = []
    for kind in FILES:
        for path in sorted(store_folder(kind).glob(f"*{SINGLE_FILE}")):
            with suppress(OSError):
                if not path.name.startswith(".") and path.is_file():
                    about = path.stat()
                    name = path.name[: -len(SINGLE_FILE)]
                    found.append(StoredPart(kind, name, path, about.st_size, about.st_atime))
    return found


def find_stored(name: str, kind: str | None = None) -> list[StoredPart]:
    """The parts of the store with this name; of one kind, or of all."""
    return [part for part in stored_parts() if part.name == name and kind in (None, part.kind)]


def stored_part(name: str, kind: str | None = None) -> StoredPart:
    """The one part with this name. Raises ModelNotFoundError for none, RequestError for several."""
    found = find_stored(name, kind)
    if not found:
        raise ModelNotFoundError(
            f"There is no {'part' if kind is None else noun_of(kind)} {shown(name)} in mlxdiff's store.",
            "To see what is there run: mlxdiff pull --list",
        )
    if len(found) > 1:
        raise RequestError(
            f"{name} is the name of {' and '.join(KINDS[part.kind].article for part in found)}.",
            f"Say which one with --kind {found[0].kind}",
        )
    return found[0]


def check_stored(part: StoredPart) -> bool | None:
    """Whether a part's content is what was copied; None where that was not remembered."""
    verified = read_verified()
    digest = recorded_digest(verified, part.path)
    if digest is None:
        return None
    with suppress(OSError):
        now = entry_of(part.path, digest)
        if digest_of(part.path, digest) == digest:
            record(now)
            return True
    return False


def remove_stored(part: StoredPart) -> None:
    """Removes a part's file from the store. Raises OutputError where the system refuses."""
    try:
        part.path.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(part.path, error) from error


def _digest(path: Path) -> str:
    verified, kind = read_verified(), "0" * 64
    known = recorded_digest(verified, path)
    if known is not None and len(known) == len(kind) and is_verified(verified, path, known):
        return known
    try:
        return digest_of(path, kind)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}).", "Check its permissions.") from error
