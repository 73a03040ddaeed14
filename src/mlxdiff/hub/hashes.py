"""The hashes by which other programs know a file, and finding a file by one; remembered for as long as it is unchanged.

AutoV2 (Civitai): the first 10 digits of the file's SHA-256. AutoV3 (Civitai; A1111's `Lora hashes`, with 12 digits):
the first digits of the SHA-256 of what stands behind a safetensors header. Losing what is remembered costs reading the
files again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..files import atomic_write, open_regular
from ..part_kinds import MODEL
from .cached_parts import parts_of
from .contents import revisions_of
from .local import cached_folders
from .reference import SINGLE_FILE
from .shelf import metadata_of, shelved
from .state import home
from .verified import fingerprint, is_older_than_a_tick, read_verified

CLAIM = "sshs_model_hash"  # a trainer's own word for AutoV3, whole, which A1111 believes
FEWEST = 8  # digits by which a file is found

_READ = 2**20
_LARGEST = 32 * 2**20  # bytes of what is remembered
_SHA256 = re.compile(r"[0-9a-f]{64}")
_known: dict[str, list[Any]] = {}


@dataclass(frozen=True)
class FileHashes:
    """SHA-256 of a whole .safetensors file, and of its data behind the header; 64 hexadecimal digits each."""

    file: str
    data: str

    @property
    def autov2(self) -> str:
        return self.file[:10]

    @property
    def autov3(self) -> str:
        return self.data[:12]


def hashes_of(path: Path) -> FileHashes:
    """Both hashes, read once. Raises OSError for what cannot be read."""
    known = _remembered(path)
    if known is None:
        before = fingerprint(path)
        known = _read(path)
        if before is not None and before == fingerprint(path):
            _remember(path, known, before)
    return known


def file_hash(path: Path) -> str:
    """The SHA-256 of the whole file alone: of one that the hub listed, without reading it. Raises OSError."""
    blob = os.readlink(path) if path.is_symlink() else ""
    name = os.path.basename(blob)
    if _SHA256.fullmatch(name) and os.path.basename(os.path.dirname(blob)) == "blobs":
        return name
    return hashes_of(path).file


def find_by_hash(kind: str, short_hash: str) -> Path | None:
    """The file of a kind that another program calls by this hash: AutoV2, AutoV3, or A1111's; None for none.

    Looks where parts are found by name, and in the cache; a file that it has not read before, it reads. `short_hash`
    has at least 8 hexadecimal digits, or nothing is found.
    """
    sought = short_hash.strip().lower()
    if re.fullmatch(rf"[0-9a-f]{{{FEWEST},64}}", sought) is None:
        return None
    files = list(dict.fromkeys(_files(kind)))
    unread = []
    for path in files:
        known = _remembered(path)
        if metadata_of(path).get(CLAIM, "").lower().startswith(sought):
            return path
        if known is None:
            unread.append(path)
        elif _fits(known, sought):
            return path
    for path in unread:
        with suppress(OSError):
            if _fits(hashes_of(path), sought):
                return path
    return None


def _fits(hashes: FileHashes, sought: str) -> bool:
    return hashes.file.startswith(sought) or hashes.data.startswith(sought)


def _files(kind: str) -> Iterator[Path]:
    """The single files of a kind: on the shelves, then in the cache."""
    if kind != MODEL:
        yield from (part.path for part in shelved(kind) if part.path.is_file())
    verified = read_verified()
    for folder, _ in cached_folders():
        for revision in revisions_of(folder):
            if not revision.is_model:
                for part in parts_of(revision, verified):
                    if part.kind == kind and part.path.lower().endswith(SINGLE_FILE):
                        yield revision.folder / part.path


def _read(path: Path) -> FileHashes:
    whole, data = hashlib.sha256(), hashlib.sha256()
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        whole.update(prefix)
        left = min(length, size)  # of the header, whatever it says of its length
        while left > 0 and (block := stream.read(min(left, _READ))):
            whole.update(block)
            left -= len(block)
        while block := stream.read(_READ):
            whole.update(block)
            data.update(block)
    return FileHashes(whole.hexdigest(), data.hexdigest())


def _remembered(path: Path) -> FileHashes | None:
    place = os.path.realpath(path)
    if place not in _known:
        _known.update(_stored())
    entry, now = _known.get(place), fingerprint(path)
    if entry is None or now is None or entry[2:] != [*now]:
        return None
    return FileHashes(entry[0], entry[1])


def _remember(path: Path, hashes: FileHashes, now: tuple[int, int, int, int]) -> None:
    """One so young that it may change again within the clock's tick is read once more the next time."""
    if not is_older_than_a_tick(now, time.time_ns()):
        return
    _known[os.path.realpath(path)] = [hashes.file, hashes.data, *now]
    kept = {place: entry for place, entry in {**_stored(), **_known}.items() if os.path.exists(place)}
    content = json.dumps({"files": kept}, indent=0, sort_keys=True).encode()
    with suppress(OutputError):  # nothing is lost but time
        atomic_write(_record_file(), lambda stream: stream.write(content), force=True)


def _stored() -> dict[str, list[Any]]:
    try:
        with open_regular(_record_file()) as stream:
            content = stream.read(_LARGEST + 1)
        files = json.loads(content)["files"] if len(content) <= _LARGEST else {}
        return {place: entry for place, entry in files.items() if _is_entry(entry)}
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return {}


def _is_entry(entry: Any) -> bool:
    return (
        type(entry) is list
        and len(entry) == 6
        and all(isinstance(digest, str) and _SHA256.fullmatch(digest) for digest in entry[:2])
        and all(type(number) is int for number in entry[2:])
    )


def _record_file() -> Path:
    return home() / "hashes.json"
