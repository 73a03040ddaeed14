"""Brings a repository into the Hugging Face cache that every tool shares: first a plan, then its files."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError, MlxdiffError, ModelNotFoundError, OutputError, RequestError
from ..files import atomic_write
from .failures import explained
from .local import COMMIT, MAIN, Snapshot, cached_commit, parse_repository, storage, what_is_missing
from .retry import retried
from .selection import choose_files
from .state import mirror_of
from .transfer import Source, Stopped, bring, link, part_of, size_of

AT_ONCE = 4  # files
LIBRARY = "mlxdiff"


@dataclass(frozen=True)
class PlannedFile:
    """One file of a repository: its path there, its bytes, its hash, and what the cache has of it.

    digest   SHA-256 of a large file, git's SHA-1 of a small one: the name of its blob
    here     whether the whole file is there
    arrived  bytes that need not be fetched again, of a file that broke off too
    """

    path: str
    size: int
    digest: str
    here: bool
    arrived: int


@dataclass(frozen=True)
class Plan:
    """What `pull` would do. revision is what was asked for (a branch, tag or commit), commit what it stands for."""

    repository: str
    revision: str
    commit: str
    folder: Path
    files: tuple[PlannedFile, ...]
    force: bool = False

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def missing(self) -> int:
        """Bytes that are still to be fetched."""
        return sum(file.size - file.arrived for file in self.files)


Progress = Callable[[PlannedFile, int], None]
"""progress(file, done): `done` bytes of this file are there. Called from one thread at a time."""


def plan(
    reference: str,
    revision: str | None = None,
    variant: str | None = None,
    *,
    token: str | None = None,
    force: bool = False,
) -> Plan:
    """What bringing a repository into the cache takes; asks the hub for its commit and its list of files.

    variant  the weights' precision, the middle of a name like model.fp16.safetensors; None takes the plain ones, or
             fp16 where there are no others
    token    instead of HF_TOKEN or the one that `hf auth login` stored
    force    fetch everything anew, also what is there
    The hub is not asked where it could say nothing new: under HF_HUB_OFFLINE, and for a commit that is all there.
    Raises RemovedError, ModelNotFoundError, UnsupportedError or CheckpointError for a repository that mlxdiff cannot
    use, and MlxdiffError where the hub does not answer.
    """
    name, revision = _repository(reference, revision)
    offline = _is_offline()
    if offline or (COMMIT.fullmatch(revision) and not force):
        found = _plan_of_cache(name, revision, variant)
        if found is not None and not force:
            return found
    with explained(name, revision):
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        api = HfApi(library_name=LIBRARY, token=token)
        commit = retried(lambda: api.model_info(name, revision=revision).sha)
        if commit is None or COMMIT.fullmatch(commit) is None:
            raise MlxdiffError(f"The hub names no commit for {name}.", "Check HF_ENDPOINT, or try again later.")
        listed = retried(lambda: list(api.list_repo_tree(name, revision=commit, recursive=True)))
    entries = {entry.path: entry for entry in listed if isinstance(entry, RepoFile)}
    digests = {path: entry.blob_id if entry.lfs is None else entry.lfs.sha256 for path, entry in entries.items()}
    folder = storage(name) / "snapshots" / commit
    files = tuple(
        _planned(folder, path, entries[path].size, digests[path], force)
        for path in choose_files(entries, variant, name)
    )
    return Plan(name, revision, commit, folder, files, force)


def pull(plan: Plan, progress: Progress | None = None, *, token: str | None = None) -> Snapshot:
    """Brings what is missing into the cache, several files at a time, and then moves the branch to the commit.

    Each file is checked against its hash, and a broken download is taken up where it ended. The weights come last, so
    that a snapshot that has them has everything.
    Raises OutputError where the disk is full or not writable, MlxdiffError where the hub fails.
    """
    _check_space(plan)
    wanted = [file for file in plan.files if not file.here]
    weights = {file for file in wanted if file.path.endswith(".safetensors")}
    for batch in ([file for file in wanted if file not in weights], sorted(weights, key=lambda file: -file.size)):
        _bring_all(plan, batch, progress, token)
    missing = what_is_missing(plan.folder, plan.repository)
    if missing is not None:
        raise CheckpointError(
            f"{plan.repository} is not complete on the hub: {missing}.", "Choose another repository or revision."
        )
    ref = storage(plan.repository) / "refs" / plan.revision
    if plan.revision != plan.commit and cached_commit(plan.repository, plan.revision) != plan.commit:
        atomic_write(ref, lambda stream: stream.write(plan.commit.encode()), force=True)
    return Snapshot(plan.repository, plan.folder, plan.commit)


def _planned(folder: Path, path: str, size: int, digest: str, force: bool) -> PlannedFile:
    blob = folder.parents[1] / "blobs" / digest
    if not force and size_of(folder / path) == size:
        return PlannedFile(path, size, digest, here=True, arrived=size)
    arrived = size if not force and size_of(blob) == size else min(size, size_of(part_of(blob)) or 0)
    return PlannedFile(path, size, digest, here=False, arrived=arrived)


def _plan_of_cache(name: str, revision: str, variant: str | None) -> Plan | None:
    """The plan for what is all there, made without the hub; None where something is missing."""
    commit = cached_commit(name, revision)
    if commit is None and (mirror := mirror_of(name)) is not None:
        name, commit = mirror, cached_commit(mirror, revision)
    if commit is None:
        return None
    folder = storage(name) / "snapshots" / commit
    if what_is_missing(folder, name) is not None:
        return None
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    try:
        chosen = choose_files(sizes, variant, name)
    except MlxdiffError:
        return None
    files = (
        PlannedFile(path, sizes[path], (folder / path).resolve().name, here=True, arrived=sizes[path])
        for path in chosen
    )
    return Plan(name, revision, commit, folder, tuple(files))


def _bring_all(plan: Plan, files: Iterable[PlannedFile], progress: Progress | None, token: str | None) -> None:
    """Several files at a time; the first failure or an interrupt stops them all, and what has arrived stays."""
    stop, lock = threading.Event(), threading.Lock()

    def report(file: PlannedFile, done: int) -> None:
        if progress is not None:
            with lock:
                progress(file, done)

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="mlxdiff-pull") as pool:
        coming = [pool.submit(_bring, plan, file, report, stop, token) for file in files]
        try:
            for done in as_completed(coming):
                done.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _bring(plan: Plan, file: PlannedFile, report: Progress, stop: threading.Event, token: str | None) -> None:
    if stop.is_set():
        raise Stopped
    with explained(plan.repository, plan.commit):
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        folder = storage(plan.repository)
        blob = folder / "blobs" / file.digest
        source = Source(
            label=f"{file.path} of {plan.repository}",
            url=hf_hub_url(plan.repository, file.path, revision=plan.commit),
            headers=build_hf_headers(token=token, library_name=LIBRARY),
            size=file.size,
            digest=file.digest,
            blob=blob,
            lock=folder.parent / ".locks" / folder.name / f"{file.digest}.lock",
        )
        bring(source, lambda done: report(file, done), stop, anew=plan.force)
        link(blob, plan.folder / file.path)


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


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
