"""Which parts a snapshot of the cache holds that is no model: components in folders, and files by their headers.

The cache belongs to other tools as well: what is no part that mlxdiff knows, and was never read by it, is left out.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from ..checkpoint.detect import read_json
from ..checkpoint.kinds import kind_if_sound
from ..errors import MlxdiffError
from ..part_kinds import kind_of_config, noun_of
from .choosing import CONFIG, IMAGE_ENCODER, is_component_file, part_files
from .contents import Entry, Revision
from .selection import choose_weight_files
from .verified import Verified


@dataclass(frozen=True)
class CachedPart:
    """One part in a snapshot.

    path   its file, or its folder (empty for the snapshot itself)
    kind   one of KINDS, or `model` for a whole checkpoint in one file; None where the file cannot be read (any more)
    files  the paths of what it consists of
    sound  whether everything is there
    """

    path: str
    kind: str | None
    files: tuple[str, ...]
    sound: bool

    @property
    def noun(self) -> str:
        return noun_of(self.kind)


def parts_of(revision: Revision, verified: Verified) -> tuple[CachedPart, ...]:
    """The parts in a snapshot, by path; none of a snapshot that belongs to something else."""
    entries = {entry.path: entry for entry in revision.entries}
    found = [part for path in entries if posixpath.basename(path) == CONFIG for part in _component(entries, path)]
    for path in part_files(entries):
        found += _file(entries, path, verified)
    return tuple(sorted(found, key=lambda part: part.path))


def _component(entries: dict[str, Entry], config: str) -> Iterable[CachedPart]:
    content, kind = entries[config].content, None
    with suppress(MlxdiffError):
        kind = None if content is None else kind_of_config(read_json(content))
    folder = posixpath.dirname(config)
    if kind is None or (folder and kind == "image_encoder"):  # one in a folder belongs to the adapters beside it
        return
    inside = {
        posixpath.basename(path): entry.content is not None
        for path, entry in entries.items()
        if posixpath.dirname(path) == folder
    }
    try:
        weights, sound = choose_weight_files([name for name, there in inside.items() if there], None, folder), True
    except MlxdiffError:
        weights, sound = list(filter(is_component_file, inside)), False
    files = (CONFIG, *weights)
    yield CachedPart(folder, kind, tuple(posixpath.join(folder, name) for name in files), sound)


def _file(entries: dict[str, Entry], path: str, verified: Verified) -> Iterable[CachedPart]:
    content = entries[path].content
    kind = None if content is None else kind_if_sound(content)
    beside = [name for name in entries if _is_encoder(name)] if kind == "ip_adapter" else []
    if kind is not None or (content is not None and os.path.realpath(content) in verified):
        yield CachedPart(path, kind, (*beside, path), kind is not None)


def _is_encoder(path: str) -> bool:
    folder, name = posixpath.split(path)
    return posixpath.basename(folder) == IMAGE_ENCODER and name in (CONFIG, "model.safetensors")
