"""The cache, well kept: what is in it, whether it is sound, and what may go.

Only models in the diffusers layout are looked at: the cache belongs to other tools as well.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoint.detect import MODEL_INDEX
from ..errors import ModelNotFoundError
from ..files import output_error
from .local import MAIN, cached_commit, how_to_pull, parse_repository, storage, what_is_missing
from .state import mirror_of
from .transfer import digest_of

if TYPE_CHECKING:
    from huggingface_hub import DeleteCacheStrategy, HFCacheInfo

_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class CachedModel:
    """One revision of a repository in the cache; `complete` when `resolve` would take it.

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


@dataclass(frozen=True)
class Removal:
    """What would go: revisions of models, unfinished downloads, whole folders of repositories; and the bytes freed."""

    models: tuple[CachedModel, ...]
    unfinished: tuple[Path, ...]
    folders: tuple[Path, ...]
    size: int

    @property
    def empty(self) -> bool:
        return not (self.models or self.unfinished or self.folders)


@dataclass(frozen=True)
class CheckedFile:
    """One file of a model; `sound` is None where its hash is nowhere to be read (a cache without links)."""

    path: str
    sound: bool | None
    place: Path


def cached_models() -> list[CachedModel]:
    """The models in the cache that are in the diffusers layout, by name; other repositories are left out."""
    scanned = _scan()
    return [] if scanned is None else _models(scanned)


def find_models(reference: str) -> list[CachedModel]:
    """The revisions in the cache that a reference names: all of a repository's, or the one after the @.

    A name whose files came from a mirror stands for the mirror. Raises ModelNotFoundError where there are none.
    """
    name, revision = _named(reference)
    models = [model for model in cached_models() if model.reference == name]
    if revision is not None:
        commit = cached_commit(name, revision)
        models = [model for model in models if model.revision == commit]
    if not models:
        raise ModelNotFoundError(f"{reference} is not in the cache.", how_to_pull(reference))
    return models


def removal_of(reference: str) -> Removal:
    """What removing a model takes: its revisions, and with the last of them its unfinished downloads."""
    name, revision = _named(reference)
    folder = storage(name)
    scanned = _scan()
    if scanned is None or not any(repo.repo_id == name for repo in scanned.repos):
        if revision is None and folder.is_dir():  # a pull that never finished a file
            return Removal((), (), (folder,), _bytes_of(folder))
        raise ModelNotFoundError(f"{reference} is not in the cache.", how_to_pull(reference))
    models = tuple(find_models(reference))
    every = {model.revision for model in _models(scanned) if model.reference == name}
    unfinished = tuple(_unfinished(folder)) if {model.revision for model in models} == every else ()
    return Removal(models, unfinished, (), _freed(scanned, models) + _sum(unfinished))


def prunable() -> Removal:
    """What nothing needs: revisions that no branch or tag stands for, and downloads that nobody is continuing."""
    scanned = _scan()
    if scanned is None:
        return Removal((), (), (), 0)
    models = _models(scanned)
    loose = tuple(model for model in models if not model.refs)
    folders = {storage(model.reference) for model in models}
    # A repository that has no file yet is not in the scan; what it began is a model's if it was pulled.
    unfinished = tuple(part for folder in sorted(folders) for part in _unfinished(folder))
    return Removal(loose, unfinished, (), _freed(scanned, loose) + _sum(unfinished))


def remove(removal: Removal) -> None:
    """Removes what `removal_of` or `prunable` found. Raises OutputError where the system refuses.

    Unfinished downloads that a process is continuing at this moment stay.
    """
    from huggingface_hub.utils import WeakFileLock

    scanned = _scan()
    try:
        for part in removal.unfinished:
            lock = _lock_of(part)
            lock.parent.mkdir(parents=True, exist_ok=True)
            with suppress(TimeoutError), WeakFileLock(lock, timeout=0.1):
                part.unlink(missing_ok=True)
        if scanned is not None and removal.models:
            for strategy in _strategies(scanned, removal.models):
                strategy.execute()
        for folder in removal.folders:
            shutil.rmtree(folder)
    except OSError as error:
        raise output_error(Path(error.filename or removal_place(removal)), error) from error


def removal_place(removal: Removal) -> Path:
    """Some path of a removal, for errors that name none."""
    return (*(model.path for model in removal.models), *removal.unfinished, *removal.folders)[0]


def verify(model: CachedModel, report: Callable[[Path], None] | None = None) -> Iterator[CheckedFile]:
    """Reads every file of a model again and compares it with the hash that its blob is named by.

    report  called with each file before it is read
    """
    for path in sorted(model.path.rglob("*")):
        if path.is_dir():
            continue
        if report is not None:
            report(path)
        place = path.resolve()
        label = path.relative_to(model.path).as_posix()
        if not place.is_file():
            yield CheckedFile(label, False, path)
        elif not path.is_symlink() or _DIGEST.fullmatch(place.name) is None:
            yield CheckedFile(label, None, path)
        else:
            yield CheckedFile(label, digest_of(place, place.name) == place.name, place)


def remove_damaged(model: CachedModel, files: Iterable[CheckedFile]) -> None:
    """Removes damaged files, so that the next pull brings them anew. Raises OutputError where the system refuses."""
    try:
        for file in files:
            file.place.unlink(missing_ok=True)
            (model.path / file.path).unlink(missing_ok=True)
    except OSError as error:
        raise output_error(model.path, error) from error


def _named(reference: str) -> tuple[str, str | None]:
    parsed = parse_repository(reference)
    if parsed is None:
        raise ModelNotFoundError(f"{reference!r} is no id of a repository.", "It has the form owner/name.")
    name, revision = parsed
    mirror = mirror_of(name)
    return (mirror, revision) if mirror is not None and not storage(name).is_dir() else (name, revision)


def _scan() -> HFCacheInfo | None:
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        return scan_cache_dir(constants.HF_HUB_CACHE)
    except (CacheNotFound, ValueError):  # no cache yet, or a file in its place
        return None


def _models(scanned: HFCacheInfo) -> list[CachedModel]:
    models = [
        CachedModel(
            repo.repo_id,
            revision.commit_hash,
            revision.size_on_disk,
            path,
            what_is_missing(path, repo.repo_id) is None,
            tuple(sorted(revision.refs, key=lambda ref: (ref != MAIN, ref))),
            max((file.blob_last_accessed for file in revision.files), default=0.0),
        )
        for repo in scanned.repos
        for revision in repo.revisions
        if repo.repo_type == "model" and ((path := Path(revision.snapshot_path)) / MODEL_INDEX).is_file()
    ]
    return sorted(models, key=lambda model: (model.reference, model.revision))


def _freed(scanned: HFCacheInfo, models: Iterable[CachedModel]) -> int:
    return sum(strategy.expected_freed_size for strategy in _strategies(scanned, models))


def _strategies(scanned: HFCacheInfo, models: Iterable[CachedModel]) -> Iterator[DeleteCacheStrategy]:
    """How each repository's revisions go. One by one: a copy of a repository can have the same commits."""
    wanted = {(model.reference, model.revision) for model in models}
    for repo in scanned.repos:
        revisions = [commit for name, commit in wanted if name == repo.repo_id]
        if repo.repo_type == "model" and revisions:
            yield replace(scanned, repos=frozenset({repo})).delete_revisions(*revisions)


def _unfinished(folder: Path) -> list[Path]:
    return sorted((folder / "blobs").glob("*.incomplete"))


def _lock_of(part: Path) -> Path:
    """The lock that whoever continues a download holds: mlxdiff and huggingface_hub agree on it."""
    folder = part.parents[1]
    return folder.parent / ".locks" / folder.name / f"{part.name.split('.')[0]}.lock"


def _bytes_of(folder: Path) -> int:
    return _sum(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _sum(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.exists())
