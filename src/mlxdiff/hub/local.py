"""A model's name to its files on this disk, without the network: built in, a folder, one file, or in the cache."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.detect import MODEL_INDEX, PICKLES
from ..errors import MlxdiffError, ModelNotFoundError, UnsupportedError
from .mirrors import MIRRORS, how_to_mirror, nearest
from .selection import FILES, choose_component, files_in

BUILT_IN = "emoji"
MAIN = "main"
SINGLE_FILE = ".safetensors"
FORMS = (
    f"A model is {BUILT_IN} (built in), a hub id such as owner/name or owner/name@revision, a folder's path, or a"
    f" {SINGLE_FILE} file's."
)

_REPOSITORY = re.compile(r"(?P<name>\w[\w.-]*/[\w.-]+)(@(?P<revision>\w[\w./+-]*))?", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Snapshot:
    """A model on this disk: how it was asked for, its folder or single file, and its commit if it is the hub's."""

    reference: str
    path: Path
    revision: str | None = None


def resolve(reference: str) -> Snapshot:
    """Where a model's files are, from a built-in name, a folder's path or a repository in the cache; no network.

    A .safetensors file stands for itself. Raises ModelNotFoundError where there is nothing under this name,
    UnsupportedError for any other file.
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
    if path is not None and path.is_file() and path.suffix.lower() == SINGLE_FILE:
        return Snapshot(reference, path)
    _refuse_files(reference, path)
    parsed = parse_repository(reference)
    if parsed is None:
        raise _unknown(reference)
    name, revision = parsed
    commit = cached_commit(name, MAIN if revision is None else revision)
    if commit is None and (mirror := _agreed_mirror(name)) is not None:
        name, commit = mirror, cached_commit(mirror, MAIN if revision is None else revision)
    if commit is None:
        raise ModelNotFoundError(
            f"{reference} is not in the cache, and there is no such folder.", how_to_pull(reference)
        )
    folder = storage(name) / "snapshots" / commit
    missing = what_is_missing(folder, name)
    if missing is not None:
        raise ModelNotFoundError(f"{reference} is in the cache, but not complete: {missing}.", how_to_pull(reference))
    return Snapshot(name, folder, commit)


def resolve_vae(reference: str) -> Path:
    """Where a VAE to use instead of a model's own is: its folder, a model's folder or name, or a .safetensors file.

    Raises ModelNotFoundError and UnsupportedError, as `resolve` does; no network.
    """
    path = as_path(reference)
    if path is not None and (path / "config.json").is_file() and not (path / MODEL_INDEX).is_file():
        return path
    return resolve(reference).path


def is_local(reference: str) -> bool:
    """Whether a reference is built in or a path, and so nothing that the hub has."""
    path = as_path(reference)
    return reference == BUILT_IN or parse_repository(reference) is None or (path is not None and path.exists())


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


def cached_commit(name: str, revision: str) -> str | None:
    """The commit that a branch, tag or commit stands for in the cache; None where its snapshot is not there."""
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
            "Get the model's .safetensors file from where it was published; a pickle that you trust can be converted"
            " with diffusers' save_pretrained(..., safe_serialization=True).",
        )
    if suffix == SINGLE_FILE and not is_file:
        raise ModelNotFoundError(f"There is no file {reference}.", "Check the path.")
    if is_file:
        raise UnsupportedError(
            f"{reference} is a file of another kind than {SINGLE_FILE}, the only one that mlxdiff loads models from.",
            "Give a checkpoint's .safetensors file, or a folder in the diffusers layout.",
        )


def _unknown(reference: str) -> ModelNotFoundError:
    if not reference.strip():
        return ModelNotFoundError("The model's name is empty.", FORMS)
    if any(mark in reference for mark in ("/", "\\", "~")) or reference.startswith("."):
        return ModelNotFoundError(f"There is no folder {reference}.", f"Check the path. {FORMS}")
    near = nearest(reference, [BUILT_IN, *cached_names()])
    hint = f"Did you mean {near}? " if near is not None else ""
    return ModelNotFoundError(f"There is no model {reference!r}.", f"{hint}{FORMS}")


def how_to_pull(asked: str) -> str:
    """What to run for a repository that is not in the cache."""
    name = asked.partition("@")[0]
    if name in MIRRORS:
        return f"It was removed from the hub. {how_to_mirror(asked, MIRRORS[name])}"
    near = nearest(name, cached_names())
    if near is None or near.lower() == name.lower():
        return f"Run: mlxdiff pull {asked}"
    return f"Run: mlxdiff pull {asked}; or did you mean {near}?"


def cached_names() -> list[str]:
    """The repositories that have a folder in the cache, whatever is in it."""
    from huggingface_hub import constants

    found = sorted(Path(constants.HF_HUB_CACHE).glob("models--*--*"))
    return [path.name.removeprefix("models--").replace("--", "/", 1) for path in found]


def _agreed_mirror(name: str) -> str | None:
    from .state import mirror_of  # which imports this module

    return mirror_of(name) if name in MIRRORS else None
