"""A model's name to its folder on this disk, without the network: built in, a folder, or in the Hugging Face cache."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import MlxdiffError, ModelNotFoundError, UnsupportedError
from .selection import FILES, MODEL_INDEX, PICKLES, choose_component, files_in

BUILT_IN = "emoji"
MAIN = "main"
# Removed from the hub by their owners: where the same files are.
MIRRORS = {
    f"stabilityai/{name}": f"sd2-community/{name}"
    for name in (
        "stable-diffusion-2",
        "stable-diffusion-2-base",
        "stable-diffusion-2-inpainting",
        "stable-diffusion-2-1",
        "stable-diffusion-2-1-base",
    )
} | {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
}
FORMS = f"A model is {BUILT_IN} (built in), a hub id such as owner/name or owner/name@revision, or a folder's path."

_REPOSITORY = re.compile(r"(?P<name>\w[\w.-]*/[\w.-]+)(@(?P<revision>\w[\w./+-]*))?", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Snapshot:
    """A model on this disk: how it was asked for, its folder, and its commit if it comes from the hub."""

    reference: str
    path: Path
    revision: str | None = None


@dataclass(frozen=True)
class CachedModel:
    """One revision of a repository in the cache; `size` in bytes, `complete` when `resolve` would take it."""

    reference: str
    revision: str
    size: int
    path: Path
    complete: bool


def resolve(reference: str) -> Snapshot:
    """Where a model's files are, from a built-in name, a folder's path or a repository in the cache; no network.

    Raises ModelNotFoundError where there is nothing under this name, UnsupportedError for a file of weights.
    """
    if reference == BUILT_IN:
        return Snapshot(BUILT_IN, Path(__file__).parents[1] / "assets" / BUILT_IN)
    path = as_path(reference)
    if path is not None and path.is_dir():
        if not (path / MODEL_INDEX).is_file():
            raise ModelNotFoundError(
                f"{reference} is no model in the diffusers layout: it has no {MODEL_INDEX}.",
                "Give the folder that holds one, with its components in folders beside it.",
            )
        return Snapshot(reference, path)
    _refuse_files(reference, path)
    parsed = parse_repository(reference)
    if parsed is None:
        raise _unknown(reference)
    name, revision = parsed
    commit = _cached_commit(name, MAIN if revision is None else revision)
    if commit is None:
        raise ModelNotFoundError(
            f"{reference} is not in the cache, and there is no such folder.", how_to_pull(reference)
        )
    folder = storage(name) / "snapshots" / commit
    missing = what_is_missing(folder, name)
    if missing is not None:
        raise ModelNotFoundError(f"{reference} is in the cache, but not complete: {missing}.", how_to_pull(reference))
    return Snapshot(name, folder, commit)


def is_local(reference: str) -> bool:
    """Whether a reference is built in or a path, and so nothing that the hub has."""
    path = as_path(reference)
    return reference == BUILT_IN or parse_repository(reference) is None or (path is not None and path.is_dir())


def cached_models() -> list[CachedModel]:
    """The models in the cache that are in the diffusers layout, by name; other repositories are left out."""
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        found = scan_cache_dir(constants.HF_HUB_CACHE)
    except (CacheNotFound, ValueError):  # no cache yet, or a file in its place
        return []
    models = [
        CachedModel(
            repo.repo_id,
            revision.commit_hash,
            revision.size_on_disk,
            path,
            what_is_missing(path, repo.repo_id) is None,
        )
        for repo in found.repos
        for revision in repo.revisions
        if repo.repo_type == "model" and ((path := Path(revision.snapshot_path)) / MODEL_INDEX).is_file()
    ]
    return sorted(models, key=lambda model: (model.reference, model.revision))


def parse_repository(reference: str) -> tuple[str, str | None] | None:
    """owner/name[@revision] in its parts; None for what has another form or could lead out of the cache."""
    match = _REPOSITORY.fullmatch(reference)
    if match is None or ".." in reference or "--" in match["name"]:
        return None
    return match["name"], match["revision"]


def storage(name: str) -> Path:
    """The repository's folder in the cache, laid out as Hugging Face documents it: refs, snapshots, blobs."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"


def _cached_commit(name: str, revision: str) -> str | None:
    folder = storage(name)
    try:
        commit = (folder / "refs" / revision).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        commit = revision
    known = COMMIT.fullmatch(commit) is not None and (folder / "snapshots" / commit).is_dir()
    return commit if known else None


def what_is_missing(folder: Path, name: str) -> str | None:
    """What a snapshot lacks of the files that mlxdiff loads, in words; None when it is complete.

    Complete is what has all that its own index lists, whether or not mlxdiff implements it.
    """
    try:
        index = json.loads((folder / MODEL_INDEX).read_bytes())
    except (OSError, ValueError, RecursionError):
        return f"its {MODEL_INDEX} is missing or damaged"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for component in FILES:
        listed = index.get(component) if isinstance(index, dict) else None
        if isinstance(listed, list) and any(listed):
            try:
                choose_component(component, files_in(component, names), None, name)
            except MlxdiffError as error:
                return error.problem.rstrip(".")
    return None


def as_path(reference: str) -> Path | None:
    """The reference as a path; None where no path can look like it."""
    if not reference or "\0" in reference:
        return None
    try:
        path = Path(reference).expanduser()
        path.exists()
    except (OSError, RuntimeError):  # a name too long, or a ~user that is nobody
        return None
    return path


def _refuse_files(reference: str, path: Path | None) -> None:
    is_file = path is not None and path.is_file()
    suffix = Path(reference).suffix.lower()
    if suffix in PICKLES:
        raise UnsupportedError(
            f"{reference} is a pickle, which could run any code when it is opened.",
            "Use the model's safetensors in the diffusers layout.",
        )
    if suffix == ".safetensors" and not is_file:
        raise ModelNotFoundError(f"There is no file {reference}.", "Check the path.")
    if is_file:
        raise UnsupportedError(
            f"{reference} is a single file, which mlxdiff cannot load yet.",
            "Use the same model in the diffusers layout: a folder, or a repository on the hub.",
        )


def _unknown(reference: str) -> ModelNotFoundError:
    if not reference.strip():
        return ModelNotFoundError("The model's name is empty.", FORMS)
    if any(mark in reference for mark in ("/", "\\", "~")) or reference.startswith("."):
        return ModelNotFoundError(f"There is no folder {reference}.", f"Check the path. {FORMS}")
    near = difflib.get_close_matches(reference.lower(), [BUILT_IN], n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}? " if near else ""
    return ModelNotFoundError(f"There is no model {reference!r}.", f"{hint}{FORMS}")


def how_to_pull(asked: str) -> str:
    mirror = MIRRORS.get(asked)
    if mirror is not None:
        return f"It was removed from the hub; for the same files run: mlxdiff pull {mirror}"
    return f"Run: mlxdiff pull {asked}"
