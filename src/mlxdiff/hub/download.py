"""Brings a repository into the Hugging Face cache that every tool shares: first a plan, then its files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, MlxdiffError, ModelNotFoundError, OutputError, RequestError
from ..files import atomic_write
from .failures import explained
from .local import COMMIT, MAIN, Snapshot, parse_repository, storage, what_is_missing
from .selection import choose_files


@dataclass(frozen=True)
class PlannedFile:
    """One file of a repository: its path there, its bytes, and whether the cache has it."""

    path: str
    size: int
    here: bool


@dataclass(frozen=True)
class Plan:
    """What `pull` would do. revision is what was asked for (a branch, tag or commit), commit what it stands for."""

    repository: str
    revision: str
    commit: str
    folder: Path
    files: tuple[PlannedFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def missing(self) -> int:
        """Bytes that are still to be fetched."""
        return sum(file.size for file in self.files if not file.here)


Progress = Callable[[PlannedFile, int], None]
"""progress(file, done): `done` bytes of this file have arrived."""


def plan(reference: str, revision: str | None = None, variant: str | None = None) -> Plan:
    """What bringing a repository into the cache takes; asks the hub for its commit and its list of files.

    variant  the weights' precision, the middle of a name like model.fp16.safetensors; None takes the plain ones, or
             fp16 where there are no others
    Raises ModelNotFoundError, UnsupportedError or CheckpointError for a repository that mlxdiff cannot use, and
    MlxdiffError where the hub does not answer.
    """
    name, revision = _repository(reference, revision)
    with explained(name, revision):
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        api = HfApi(library_name="mlxdiff")
        commit = api.model_info(name, revision=revision).sha
        entries = list(api.list_repo_tree(name, revision=commit, recursive=True))
    sizes = {entry.path: entry.size for entry in entries if isinstance(entry, RepoFile)}
    if commit is None or COMMIT.fullmatch(commit) is None:
        raise MlxdiffError(f"The hub names no commit for {name}.", "Check HF_ENDPOINT, or try again later.")
    folder = storage(name) / "snapshots" / commit
    files = tuple(
        PlannedFile(path, sizes[path], _size(folder / path) == sizes[path])
        for path in choose_files(sizes, variant, name)
    )
    return Plan(name, revision, commit, folder, files)


def pull(plan: Plan, progress: Progress | None = None) -> Snapshot:
    """Brings what is missing into the cache, one file after the other, and then moves the branch to the commit.

    Raises OutputError where the disk is full or not writable, MlxdiffError where the hub fails.
    """
    _check_space(plan)
    for file in plan.files:
        if file.here:
            continue
        with explained(plan.repository, plan.commit):
            from huggingface_hub import hf_hub_download

            hf_hub_download(
                plan.repository,
                file.path,
                revision=plan.commit,
                library_name="mlxdiff",
                # What is there has another size than on the hub: not what it should be.
                force_download=_size(plan.folder / file.path) is not None,
                tqdm_class=_bar(file, progress),  # type: ignore[arg-type]
            )
    missing = what_is_missing(plan.folder, plan.repository)
    if missing is not None:
        raise CheckpointError(
            f"{plan.repository} is not complete on the hub: {missing}.", "Choose another repository or revision."
        )
    if plan.revision != plan.commit:
        ref = storage(plan.repository) / "refs" / plan.revision
        atomic_write(ref, lambda stream: stream.write(plan.commit.encode()), force=True)
    return Snapshot(plan.repository, plan.folder, plan.commit)


def _repository(reference: str, revision: str | None) -> tuple[str, str]:
    parsed = parse_repository(reference)
    if parsed is None:
        raise ModelNotFoundError(
            f"{reference!r} is no id of a repository.", "It has the form owner/name or owner/name@revision."
        )
    name, named = parsed
    if revision is None:
        return name, MAIN if named is None else named
    if named not in (None, revision):
        raise RequestError(f"{reference} names another revision than {revision}.", "Name the revision once.")
    if parse_repository(f"{name}@{revision}") is None:
        raise ModelNotFoundError(f"{revision!r} is no revision.", "It is a branch, a tag or a commit.")
    return name, revision


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _check_space(plan: Plan) -> None:
    folder = plan.folder
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < plan.missing:
        raise OutputError(
            f"{plan.repository} needs {plan.missing / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB left.",
            "Free some space, or set HF_HOME to a folder on another disk.",
        )


def _bar(file: PlannedFile, progress: Progress | None) -> type:
    """What huggingface_hub takes for a tqdm class: reports the bytes of one file."""

    class Bar:
        def __init__(self, *_: Any, total: float | None = None, initial: float = 0, **__: Any) -> None:
            self.n, self.total = 0.0, total
            self.update(initial)

        def update(self, n: float | None = 1) -> None:
            self.n += 0 if n is None else n
            if progress is not None:
                progress(file, int(self.n))

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def _nothing(self, *_: Any, **__: Any) -> None:
            pass

        # Bytes on the wire, which may be fewer than the file's, and words beside the bar.
        update_transfer = set_postfix_str = set_transfer_postfix_str = refresh = close = _nothing

    return Bar
