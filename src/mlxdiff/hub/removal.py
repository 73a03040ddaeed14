"""Removing from the cache: one revision, a whole model, what nothing needs; and never what is not clearly the model's.

What goes are snapshots, the branches that stand for them, and the blobs that only they show. Links are removed, never
what they lead to.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelNotFoundError, OutputError, RequestError
from ..files import output_error
from .contents import files_below, refs_of, revisions_of
from .local import cached_folders, storage
from .reference import DIGEST, parse_reference
from .upkeep import CachedModel, cached_models, cached_parts, find_models, named, not_cached

if TYPE_CHECKING:
    from huggingface_hub import DeleteCacheStrategy

# mlxdiff's own, and huggingface_hub's with letters of its own behind the hash.
_UNFINISHED = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})(?:\.[0-9a-f]{1,64})?\.incomplete")


@dataclass(frozen=True)
class Removal:
    """What would go: revisions of models, unfinished downloads, folders of repositories that are empty then; and the
    bytes freed."""

    models: tuple[CachedModel, ...]
    unfinished: tuple[Path, ...]
    folders: tuple[Path, ...]
    size: int

    @property
    def empty(self) -> bool:
        return not (self.models or self.unfinished or self.folders)


def removal_of(reference: str) -> Removal:
    """What removing a model takes: its revisions, and with the last of them its unfinished downloads.

    Raises ModelNotFoundError for what is not there, and for a repository that holds no model of mlxdiff's.
    """
    parsed = parse_reference(reference)
    if parsed is not None and parsed.file is not None:
        raise RequestError(f"{reference} names one file.", f"Name the repository: {parsed.name}")
    name, revision = named(reference)
    folder = storage(name)
    if not folder.is_dir():
        raise not_cached(reference, name)
    every = [model for model in (*cached_models(), *cached_parts()) if model.reference == name]
    if not every:
        if revision is None and _only_unfinished(folder):  # a pull that never finished a file
            parts = tuple(_unfinished(folder))
            return Removal((), parts, (folder,), _sum(parts))
        raise ModelNotFoundError(
            f"{name} is in the cache, but holds no model or part that mlxdiff knows: mlxdiff leaves it alone.",
            "Remove it with the program that fetched it, such as hf cache.",
        )
    models = tuple(find_models(reference))
    unfinished = tuple(_unfinished(folder)) if len(models) == len(every) else ()
    return Removal(models, unfinished, (), _freed(models) + _sum(unfinished))


def prunable() -> Removal:
    """What nothing needs: revisions that no branch or tag stands for, and downloads that no process is continuing."""
    models = [*cached_models(), *cached_parts()]
    loose = tuple(model for model in models if not model.refs)
    # Without a model in the repository, the download may belong to any other program.
    folders = {storage(model.reference) for model in models}
    unfinished = tuple(part for folder in sorted(folders) for part in _unfinished(folder))
    return Removal(loose, unfinished, (), _freed(loose) + _sum(unfinished))


def remove(removal: Removal) -> None:
    """Removes what `removal_of` or `prunable` found. Raises OutputError where the system refuses.

    Unfinished downloads that a process is continuing at this moment stay.
    """
    from huggingface_hub.utils import WeakFileLock

    try:
        for part in removal.unfinished:
            lock = _lock_of(part)
            lock.parent.mkdir(parents=True, exist_ok=True)
            with suppress(TimeoutError), WeakFileLock(lock, timeout=0.1):
                part.unlink(missing_ok=True)
        for name, commits in _by_repository(removal.models).items():
            strategy = _strategy(name, commits)
            if strategy is None:
                _remove_revisions(storage(name), commits)
            else:
                strategy.execute()
            left = [commit for commit in commits if os.path.lexists(storage(name) / "snapshots" / commit)]
            if left:
                raise OutputError(f"{name} at {left[0][:12]} could not be removed.", "Check the folder's permissions.")
        for folder in removal.folders:
            for place, _ in list(refs_of(folder)):
                (folder / "refs" / place).unlink()
            _remove_empty(folder)
    except OSError as error:
        raise output_error(Path(error.filename or _place_of(removal)), error) from error


def _place_of(removal: Removal) -> Path:
    return (*(model.path for model in removal.models), *removal.unfinished, *removal.folders)[0]


def _by_repository(models: Iterable[CachedModel]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for model in models:
        found.setdefault(model.reference, set()).add(model.revision)
    return found


def _freed(models: Iterable[CachedModel]) -> int:
    size = 0
    for name, commits in _by_repository(models).items():
        strategy = _strategy(name, commits)
        size += _sum(_loose_contents(storage(name), commits)) if strategy is None else strategy.expected_freed_size
    return size


def _strategy(name: str, commits: set[str]) -> DeleteCacheStrategy | None:
    """huggingface_hub's own way, which knows what repositories share; None where it does not know the repository.

    It passes over a repository that is not as it should be (`scan_cache_dir().warnings`), and it would remove what a
    link names wherever that is: then the removal is done here.
    """
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    folder = storage(name)
    refs = [place for each, _ in cached_folders() for place in files_below(each / "refs")]
    if not all(place.is_file() for place in refs):  # it would wait for a pipe
        return None
    try:
        scanned = scan_cache_dir(constants.HF_HUB_CACHE)
    except (CacheNotFound, OSError, ValueError):
        return None
    for repo in scanned.repos:
        if repo.repo_type == "model" and repo.repo_id == name:
            # One repository by itself: a copy of it can have the same commits.
            strategy = replace(scanned, repos=frozenset({repo})).delete_revisions(*commits)
            inside = (folder / "blobs", *(folder / "snapshots" / commit for commit in commits))
            if all(any(place in blob.parents for place in inside) for blob in strategy.blobs):
                return strategy
    return None


def _remove_revisions(folder: Path, commits: set[str]) -> None:
    """Removes snapshots, what stands for them, and the blobs that no other snapshot shows."""
    blobs = _loose_blobs(folder, commits)
    for name, commit in list(refs_of(folder)):
        if commit in commits:
            (folder / "refs" / name).unlink()
    for commit in commits:
        shutil.rmtree(folder / "snapshots" / commit)
    for blob in blobs:
        blob.unlink(missing_ok=True)
    _remove_empty(folder)


def _loose_blobs(folder: Path, commits: set[str]) -> set[Path]:
    going: set[Path] = set()
    staying: set[Path] = set()
    for revision in revisions_of(folder):
        blobs = {entry.blob for entry in revision.entries if entry.blob is not None}
        (going if revision.commit in commits else staying).update(blobs)
    return {blob for blob in going - staying if DIGEST.fullmatch(blob.name)}


def _loose_contents(folder: Path, commits: set[str]) -> set[Path]:
    loose = _loose_blobs(folder, commits)
    gone = {
        content
        for revision in revisions_of(folder)
        if revision.commit in commits
        for content in revision.contents
        if revision.folder in content.parents
    }
    return {blob for blob in loose if blob.exists()} | gone


def _remove_empty(folder: Path) -> None:
    """Removes a folder and those in it, as far as they are empty."""
    for root, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):
            os.rmdir(root)


def _only_unfinished(folder: Path) -> bool:
    """Whether a repository's folder holds nothing but downloads that broke off, and names of commits."""
    refs = {folder / "refs" / name for name, _ in refs_of(folder)}
    return all(
        place in refs or (place.parent == folder / "blobs" and _UNFINISHED.fullmatch(place.name))
        for place in files_below(folder)
    )


def _unfinished(folder: Path) -> list[Path]:
    return sorted(part for part in (folder / "blobs").glob("*.incomplete") if _UNFINISHED.fullmatch(part.name))


def _lock_of(part: Path) -> Path:
    """The lock of the process that continues a download: mlxdiff and huggingface_hub agree on it."""
    folder = part.parents[1]
    return folder.parent / ".locks" / folder.name / f"{part.name.split('.')[0]}.lock"


def _sum(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.exists())
