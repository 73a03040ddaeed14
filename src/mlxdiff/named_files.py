"""The files that a request names: pictures, and parts such as LoRAs, each found by its setting's own rule.

From here come the hashes that a request is recorded with, what has changed since, and the short hashes in A1111's text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from . import hub
from .errors import MlxdiffError, ModelNotFoundError
from .hashing import content_hash
from .request.declarations import PartReference, Setting, declared
from .request.pictures import ALPHA, MaskSource, PictureSource, PictureSources, Pixels, in_file
from .request.structured import Structured


@dataclass(frozen=True)
class NamedFile:
    """A file as a setting names it.

    name     what the request says: a path, a name, a hub id
    setting  the setting's name
    kind     the kind of part, or None for a picture
    find     where it is now; raises MlxdiffError where it is not there
    held     the SHA-256 of a picture that is in memory
    """

    name: str
    setting: str
    kind: str | None
    find: Callable[[], Path]
    held: str | None = None

    def digest(self) -> str:
        """The SHA-256 of its content. Raises MlxdiffError, also for a picture that was in memory of another process."""
        return content_hash(self.find()) if self.held is None else self.held


def named_files(values: Any, *, scope: str | None = None, setting: str = "") -> Iterator[NamedFile]:
    """The files that a request names, or a structured setting's value; `scope` leaves out settings of another one."""
    for item in _naming(type(values)):
        value, kind = getattr(values, item.name), item.kind
        if value is None or scope not in (None, item.scope):
            continue
        name = setting or item.name
        if isinstance(kind, Structured):
            for one in value:
                yield from named_files(one, setting=name)
        elif isinstance(kind, MaskSource) and value == ALPHA:
            continue  # the image's own
        elif isinstance(kind, PictureSource):
            yield _picture(value, name)
        elif isinstance(kind, PictureSources):
            yield from (_picture(one, name) for one in value)
        elif isinstance(kind, PartReference) and kind.is_file(value):
            yield _part(value, name, kind.part)


@cache
def _naming(of: type) -> tuple[Setting, ...]:
    """Of a dataclass' settings, those whose values may name files."""
    kinds = Structured | PictureSource | PictureSources | PartReference
    return tuple(item for item in declared(of) if isinstance(item.kind, kinds))


def _picture(value: str | Pixels, setting: str) -> NamedFile:
    held = value.sha256 if isinstance(value, Pixels) else None
    return NamedFile(str(value), setting, None, lambda: Path(in_file(str(value))), held)


def _part(reference: str, setting: str, kind: str) -> NamedFile:
    own = {"vae": hub.resolve_vae, "image_encoder": hub.find_image_encoder}
    find = own.get(kind, lambda named: hub.find_part(named, kind))
    return NamedFile(reference, setting, kind, lambda: find(reference))


def known_part(name: str, kind: str, short_hash: str = "") -> str | None:
    """What calls a part of another program's name or hash on this machine; None where it is not there."""
    try:
        hub.find_part(name, kind)
    except ModelNotFoundError:
        found = hub.find_by_hash(kind, short_hash) if short_hash else None
        return None if found is None else _callable(found, kind)
    except MlxdiffError:
        return None
    return name


def _callable(path: Path, kind: str) -> str:
    """Its bare name where that finds it, else its path."""
    try:
        return path.stem if hub.find_part(path.stem, kind).samefile(path) else str(path)
    except (MlxdiffError, OSError):
        return str(path)
