"""The cache, well kept: which models and parts are in it, and whether they are sound.

Only those that mlxdiff loads are looked at: the cache belongs to other tools as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import MlxdiffError, ModelNotFoundError
from ..files import output_error
from ..part_kinds import MODEL
from .cached_parts import CachedPart, parts_of
from .contents import Entry, Revision, entries_of, revisions_of
from .local import cached_commit, cached_folders, cached_names, storage, what_is_missing
from .mirrors import nearest
from .reference import DIGEST, MAIN, parse_repository
from .selection import FILES, choose_files
from .state import mirror_of
from .verified import Verified, digest_of, entry_of, read_verified, record, recorded_digest

HOW_TO_LIST = "To see what is there run: mlxdiff pull --list"


@dataclass(frozen=True)
class CachedModel:
    """One revision of a repository in the cache; `complete` when `resolve` or `find_part` would take it.

    parts      of a repository that is no model in the diffusers layout, what else it is
    size       bytes, of which other revisions may share some
    refs       the branches and tags that stand for it
    last_used  when one of its files was last read, in seconds since 1970, as far as the system keeps that
    """

    reference: str
    revision: str
    size: int
    path: Path
    complete: bool
    refs: tuple[str, ...] = ()
    last_used: float = 0.0
    parts: tuple[CachedPart, ...] = ()

    @property
    def kind(self) -> str | None:
        """`model`, or the kind that all of its parts are; None where they differ or cannot be read."""
        kinds = {part.kind for part in self.parts} or {MODEL}
        return next(iter(kinds)) if len(kinds) == 1 else None


@dataclass(frozen=True)
class CheckedFile:
    """One file of a model, read again.

    sound   None where there is nothing to compare: no hash is known of it, or it is gone and nothing here needs it
    needed  whether mlxdiff loads it; only such a file is removed when it is damaged, since a pull brings it back
    why     what is wrong, or why nothing can be said; empty for a sound file
    """

    path: str
    sound: bool | None
    place: Path
    needed: bool = True
    why: str = ""


def cached_models() -> list[CachedModel]:
    """The models in the cache that are in the diffusers layout, by name; other repositories are left out."""
    return [model for model in _every() if not model.parts]


def cached_parts() -> list[CachedModel]:
    """The repositories in the cache that hold parts (LoRAs, VAEs, ...), or checkpoints in single files; by name."""
    return [model for model in _every() if model.parts]


def _every() -> list[CachedModel]:
    return [model for folder, name in cached_folders() for model in _models(folder, name)]


def find_models(reference: str) -> list[CachedModel]:
    """The revisions in the cache that a reference names: all of a repository's, or the one after the @.

    A name whose files came from a mirror stands for the mirror. Raises ModelNotFoundError where there are none.
    """
    name, revision = named(reference)
    models = _models(storage(name), name)
    if revision is not None:
        commit = cached_commit(name, revision)
        models = [model for model in models if model.revision == commit]
    if not models:
        raise not_cached(reference, name)
    return models


def named(reference: str) -> tuple[str, str | None]:
    """The repository in the cache and the revision that a reference means. Raises ModelNotFoundError for no id."""
    parsed = parse_repository(reference)
    if parsed is None:
        raise ModelNotFoundError(
            f"{reference!r} is no id of a repository.", f"It has the form owner/name. {HOW_TO_LIST}"
        )
    name, revision = parsed
    mirror = mirror_of(name)
    return (mirror, revision) if mirror is not None and not storage(name).is_dir() else (name, revision)


def not_cached(reference: str, name: str) -> ModelNotFoundError:
    """The error for what was to be kept or removed, and is not there. Nobody who removes wants to pull."""
    near = nearest(name, cached_names())
    is_there = near is not None and storage(near).is_dir() and near != name
    hint = f"Did you mean {near}? " if is_there else ""
    return ModelNotFoundError(f"{reference} is not in the cache.", f"{hint}{HOW_TO_LIST}")


def verify(model: CachedModel, report: Callable[[Path], None] | None = None) -> Iterator[CheckedFile]:
    """Reads every file of a model again and compares it with its hash: its blob's name, or what a pull remembered.

    report  called with each file before it is read
    """
    entries = list(entries_of(model.path.parents[1], model.path))
    needed = {file for part in model.parts for file in part.files} or _needed(entries, model.reference)
    verified, found = read_verified(), {}
    for entry in entries:
        if report is not None:
            report(entry.place)
        checked = _checked(entry, entry.path in needed, verified, found)
        yield checked
    record(found)


def remove_damaged(model: CachedModel, files: Iterable[CheckedFile]) -> None:
    """Removes damaged files that mlxdiff loads, so that the next pull brings them anew; others stay.

    A link that leads out of the repository goes, and what it leads to stays. Raises OutputError where the system
    refuses.
    """
    blobs = model.path.parents[1] / "blobs"
    try:
        for file in files:
            if file.needed and file.sound is False:
                if file.place.parent == blobs:
                    file.place.unlink(missing_ok=True)
                (model.path / file.path).unlink(missing_ok=True)
    except OSError as error:
        raise output_error(model.path, error) from error


def _checked(entry: Entry, needed: bool, verified: Verified, found: Verified) -> CheckedFile:
    content = entry.content
    if content is None:
        is_gone = entry.blob is not None
        why = "its content is gone" if is_gone else "it leads out of the repository's folder, and is not read"
        return CheckedFile(entry.path, False if needed else None, entry.place, needed, why)
    digest = recorded_digest(verified, content) if entry.blob is None else entry.blob.name
    if digest is None or DIGEST.fullmatch(digest) is None:
        return CheckedFile(entry.path, None, entry.place, needed, "no hash of it is known")
    now = entry_of(content, digest)
    try:
        sound, why = digest_of(content, digest) == digest, "its content does not have its hash"
    except OSError as error:
        sound, why = False, f"it cannot be read ({error.strerror})"
    if sound:
        found.update(now)
    return CheckedFile(entry.path, sound, content, needed, "" if sound else why)


def _needed(entries: Iterable[Entry], name: str) -> set[str]:
    """The files of a snapshot that mlxdiff loads; where it is not complete, those that it would load by their names."""
    entries = list(entries)
    with suppress(MlxdiffError):
        return set(choose_files([entry.path for entry in entries if entry.content is not None], None, name))
    found = {entry.path for entry in entries if "/" not in entry.path and entry.path.endswith(".json")}
    for entry in entries:
        component, _, file = entry.path.partition("/")
        if component in FILES and (file in FILES[component] or file.endswith((".safetensors", ".json"))):
            found.add(entry.path)
    return found


def _models(folder: Path, name: str) -> list[CachedModel]:
    verified = read_verified()
    found = (_model(revision, name, verified) for revision in revisions_of(folder))
    return [model for model in found if model is not None]


def _model(revision: Revision, name: str, verified: Verified) -> CachedModel | None:
    """A snapshot as what it is to mlxdiff; None where that is nothing."""
    statuses = []
    for content in revision.contents:
        with suppress(OSError):  # it may go while we look
            statuses.append(content.stat())  # before anything is read: that counts as use
    parts = () if revision.is_model else parts_of(revision, verified)
    if not revision.is_model and not parts:
        return None
    is_complete = all(part.sound for part in parts) if parts else what_is_missing(revision.folder, name) is None
    return CachedModel(
        name,
        revision.commit,
        sum(status.st_size for status in statuses),
        revision.folder,
        is_complete,
        tuple(sorted(revision.refs, key=lambda ref: (ref != MAIN, ref))),
        max((status.st_atime for status in statuses), default=0.0),
        parts,
    )
