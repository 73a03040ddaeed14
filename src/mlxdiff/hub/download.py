"""Brings a model or a part into the Hugging Face cache that every tool shares: first a plan, then its files."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..checkpoint.detect import read_json
from ..errors import CheckpointError, MlxdiffError, ModelNotFoundError, OutputError, RequestError
from ..files import atomic_write
from ..part_kinds import MODEL
from .choosing import Choice, choose
from .client import Stopped, headers_with
from .contents import entries_of, entry_at
from .failures import explained, offline
from .listing import PLAN_SECONDS, ListedFile, check_chosen, commit_of, config_of, files_of
from .local import Snapshot, cached_commit, refuse_pickle, storage, what_is_missing
from .reference import COMMIT, DIGEST, MAIN, HubReference, is_address, parse_reference, parse_repository, shown
from .state import mirror_of
from .transfer import Source, bring, part_of, size_of
from .verified import Verified, digest_of, entry_of, is_verified, read_verified, record, recorded_digest

AT_ONCE = 4  # files


@dataclass(frozen=True)
class PlannedFile:
    """One file of a repository: its path there, its bytes, its hash, and what the cache has of it.

    digest   SHA-256 of a large file, git's SHA-1 of a small one: the name of its blob; empty where only the cache was
             asked, and knows none
    here     whether a file of that size is there; `pull` reads it before it is believed
    arrived  bytes that need not be fetched again, of a file that broke off too
    """

    path: str
    size: int
    digest: str
    here: bool
    arrived: int


@dataclass(frozen=True)
class Plan:
    """What `pull` would do. revision is what was asked for (a branch, tag or commit), commit what it stands for.

    single   the one file that was asked for, or is meant, instead of the whole repository, by its path; else None
    listed   whether the hub was asked, or the cache alone, which held everything
    kind     `model`, one of hub.KINDS, or None where only the file itself will say what it is
    """

    repository: str
    revision: str
    commit: str
    folder: Path
    files: tuple[PlannedFile, ...]
    force: bool = False
    single: str | None = None
    variant: str | None = None
    listed: bool = True
    kind: str | None = MODEL

    @property
    def reference(self) -> str:
        """What to call this model from now on: owner/name[@revision], or a file's address."""
        return str(HubReference(self.repository, None if self.revision == MAIN else self.revision, self.single))

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
    """What bringing a model or a part into the cache takes; asks the hub for its commit and its list of files.

    reference  owner/name[/file][@revision], or an address on the hub; that of a .safetensors file outside the diffusers
               layout means that file, with what it needs beside it
    variant    the weights' precision, the middle of a name like model.fp16.safetensors; None takes the plain ones, or
               fp16 where there are no others
    token      instead of HF_TOKEN or the one that `hf auth login` stored
    force      fetch everything anew, also what is there
    The hub is not asked where it could say nothing new: under HF_HUB_OFFLINE, and for a commit that is all there.
    Raises RemovedError, ModelNotFoundError, UnsupportedError or CheckpointError for a repository that mlxdiff cannot
    use, and MlxdiffError where the hub does not answer, or says what makes no sense.
    """
    asked = _asked_for(reference, revision)
    refuse_pickle(asked)
    named = MAIN if asked.revision is None else asked.revision
    if not force and (_is_offline() or COMMIT.fullmatch(named)):
        found = _plan_of_cache(asked.name, named, asked.file, variant)
        if found is not None:
            return found
    return _plan_of_hub(asked.name, named, asked.file, variant, token, force)


def pull(
    plan: Plan,
    progress: Progress | None = None,
    *,
    token: str | None = None,
    checking: Callable[[PlannedFile], None] | None = None,
) -> Snapshot:
    """Brings what is missing into the cache, several files at a time, and then moves the branch to the commit.

    Each file is checked against its hash: what arrives, and what is there and was not read before, or has changed
    since. A broken download is taken up where it ended. The weights come last, so that a snapshot that has them has
    everything.
    checking  called with each file that is there already, before it is read
    Raises OutputError where the disk is full or not writable, CheckpointError for a damaged file that cannot be
    replaced, MlxdiffError where the hub fails.
    """
    verified, added = read_verified(), {}
    try:
        damaged = _damaged(plan, verified, added, checking)
        if damaged and not plan.listed:
            if _is_offline():
                raise CheckpointError(
                    f"{', '.join(sorted(damaged))} of {plan.repository} cannot be what its hash says: it is damaged.",
                    f"Unset HF_HUB_OFFLINE and run again: mlxdiff pull {plan.reference}",
                )
            whole = _plan_of_hub(plan.repository, plan.commit, plan.single, plan.variant, token, plan.force)
            plan = replace(whole, revision=plan.revision)
        wanted = [file for file in plan.files if not file.here or file.path in damaged]
        _check_space(plan, wanted)
        weights = {file for file in wanted if file.path.endswith(".safetensors")}
        order = [file for file in wanted if file not in weights], sorted(weights, key=lambda file: -file.size)
        for batch in order:
            _bring_all(plan, batch, progress, token, _Arriving(verified, damaged, added))
    finally:
        record(added)
    if plan.kind == MODEL and plan.single is None:
        missing = what_is_missing(plan.folder, plan.repository)
        if missing is not None:
            raise CheckpointError(
                f"{plan.repository} is not complete on the hub: {missing}.", "Choose another repository or revision."
            )
    ref = storage(plan.repository) / "refs" / plan.revision
    if plan.revision != plan.commit and cached_commit(plan.repository, plan.revision) != plan.commit:
        atomic_write(ref, lambda stream: stream.write(plan.commit.encode()), force=True)
    if plan.single is None:
        return Snapshot(plan.repository, plan.folder, plan.commit)
    reference = str(HubReference(plan.repository, plan.commit, plan.single))
    return Snapshot(reference, plan.folder / plan.single)


@dataclass(frozen=True)
class _Arriving:
    """What was found out about the files that are there: read before, damaged, read in this run."""

    verified: Verified
    damaged: set[str]
    added: Verified


def _plan_of_hub(
    name: str, revision: str, file: str | None, variant: str | None, token: str | None, force: bool
) -> Plan:
    with explained(name, revision):
        if _is_offline():
            raise offline(name)
        headers, deadline = headers_with(token), time.monotonic() + PLAN_SECONDS
        commit = commit_of(name, revision, headers, deadline)
        entries = files_of(name, commit, headers, deadline)

        def read_config(path: str) -> Mapping[str, Any]:
            check_chosen(name, entries[path])
            return config_of(name, commit, path, headers, deadline)

        choice = choose(entries, file, variant, name, read_config)
    folder = storage(name) / "snapshots" / commit
    chosen = [entries[path] for path in choice.files]
    for entry in chosen:
        check_chosen(name, entry)
    files = tuple(_planned(folder, entry, force) for entry in chosen)
    return Plan(name, revision, commit, folder, files, force, choice.file, variant, kind=choice.kind)


def _planned(folder: Path, file: ListedFile, force: bool) -> PlannedFile:
    storage = folder.parents[1]
    blob = storage / "blobs" / file.digest
    there = entry_at(storage, folder / file.path, file.path)
    if not force and there.content is not None and size_of(there.content) == file.size:
        return PlannedFile(file.path, file.size, file.digest, here=True, arrived=file.size)
    is_whole = not force and size_of(blob) == file.size
    arrived = file.size if is_whole else min(file.size, size_of(part_of(blob)) or 0)
    return PlannedFile(file.path, file.size, file.digest, here=False, arrived=arrived)


def _plan_of_cache(name: str, revision: str, file: str | None, variant: str | None) -> Plan | None:
    """The plan for what is all there, made without the hub; None where something is missing."""
    commit = cached_commit(name, revision)
    if commit is None and (mirror := mirror_of(name)) is not None:
        name, commit = mirror, cached_commit(mirror, revision)
    if commit is None:
        return None
    folder = storage(name) / "snapshots" / commit
    there = {entry.path: entry for entry in entries_of(storage(name), folder) if entry.content is not None}
    try:
        choice = choose(there, file, variant, name, lambda path: read_json(folder / path))
        if choice.kind == MODEL and what_is_missing(folder, name) is not None:
            return None
    except MlxdiffError:
        return None
    if not _is_offline() and not _is_surely_all(choice, file):
        return None
    verified, files = read_verified(), []
    for path in choice.files:
        entry = there[path]
        if entry.content is None:
            return None
        digest = recorded_digest(verified, entry.content) if entry.blob is None else entry.blob.name
        digest = "" if digest is None or DIGEST.fullmatch(digest) is None else digest
        size = size_of(entry.content) or 0
        files.append(PlannedFile(path, size, digest, here=True, arrived=size))
    return Plan(
        *(name, revision, commit, folder, tuple(files), False, choice.file, variant), listed=False, kind=choice.kind
    )


def _is_surely_all(choice: Choice, file: str | None) -> bool:
    """Whether the hub could add nothing to what was chosen from the cache, where a repository may be half there."""
    if choice.file is None:
        return True
    return file is not None and choice.kind != "ip_adapter"  # whose image encoder the cache may lack


def _damaged(
    plan: Plan, verified: Verified, added: Verified, checking: Callable[[PlannedFile], None] | None
) -> set[str]:
    """The files that are there, have the right size, and are not what their hash says. The others are remembered."""
    found = set()
    for file in plan.files:
        content = entry_at(storage(plan.repository), plan.folder / file.path, file.path).content if file.here else None
        if content is None or not file.digest or is_verified(verified, content, file.digest):
            continue
        if checking is not None:
            checking(file)
        entry = entry_of(content, file.digest)
        try:
            digest = digest_of(content, file.digest)
        except OSError as error:
            raise CheckpointError(
                f"{content} cannot be read ({error.strerror}).", "Check its permissions, or remove it and pull again."
            ) from error
        if digest == file.digest:
            added.update(entry)
        else:
            found.add(file.path)
    return found


def _bring_all(
    plan: Plan, files: Iterable[PlannedFile], progress: Progress | None, token: str | None, arriving: _Arriving
) -> None:
    """Several files at a time; the first failure or an interrupt stops them all, and what has arrived stays."""
    stop, lock = threading.Event(), threading.Lock()

    def report(file: PlannedFile, done: int) -> None:
        if progress is not None:
            with lock:
                progress(file, done)

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="mlxdiff-pull") as pool:
        coming = [pool.submit(_bring, plan, file, report, stop, token, arriving) for file in files]
        try:
            for done in as_completed(coming):
                done.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _bring(
    plan: Plan,
    file: PlannedFile,
    report: Progress,
    stop: threading.Event,
    token: str | None,
    arriving: _Arriving,
) -> None:
    if stop.is_set():
        raise Stopped
    with explained(plan.repository, plan.commit, file=True):
        from huggingface_hub import hf_hub_url

        folder = storage(plan.repository)
        blob = folder / "blobs" / file.digest
        source = Source(
            label=f"{file.path} of {plan.repository}",
            url=hf_hub_url(plan.repository, file.path, revision=plan.commit),
            headers=headers_with(token),
            size=file.size,
            digest=file.digest,
            blob=blob,
            lock=folder.parent / ".locks" / folder.name / f"{file.digest}.lock",
            pointer=plan.folder / file.path,
        )
        anew = plan.force or file.path in arriving.damaged
        bring(source, lambda done: report(file, done), stop, arriving.verified, anew=anew)
        arriving.added.update(entry_of(plan.folder / file.path, file.digest))


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _asked_for(reference: str, revision: str | None) -> HubReference:
    """The repository, revision and file that are meant, whether the revision stands in the reference or beside it."""
    parsed = parse_reference(reference)
    if parsed is None and is_address(reference):
        raise ModelNotFoundError(
            f"{shown(reference)} is no address of a model on the Hugging Face hub.",
            "Give owner/name, or the address of its page.",
        )
    if parsed is None:
        raise ModelNotFoundError(
            f"{reference!r} is no id of a repository.", "It has the form owner/name or owner/name@revision."
        )
    if revision is None:
        return parsed
    if parsed.revision not in (None, revision):
        raise RequestError(f"{reference} names another revision than {revision}.", "Name the revision once.")
    if is_address(revision) or parse_repository(f"{parsed.name}@{revision}") is None:
        raise ModelNotFoundError(f"{revision!r} is no revision.", "It is a branch, a tag or a commit.")
    return replace(parsed, revision=revision)


def _check_space(plan: Plan, wanted: Iterable[PlannedFile]) -> None:
    needed = sum(file.size if file.here else file.size - file.arrived for file in wanted)
    folder = plan.folder
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"{plan.repository} needs {_bytes(needed)} more, and {folder} has {_bytes(free)} left.",
            "Free some space, or set HF_HOME to a folder on another disk.",
        )


def _bytes(number: int) -> str:
    """A size exactly, and in larger units where it has them: both sides of a comparison must differ to the eye."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if number >= unit:
            return f"{number / unit:.1f} {name} ({number:,} bytes)"
    return f"{number} bytes"
