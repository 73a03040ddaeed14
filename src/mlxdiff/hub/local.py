"""A model's name to its files on this disk, without the network: built in, a folder, one file, or in the cache."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.detect import MODEL_INDEX, PICKLES, read_json
from ..checkpoint.kinds import kind_if_sound
from ..errors import CheckpointError, MlxdiffError, ModelNotFoundError, UnsupportedError
from ..files import open_regular
from ..part_kinds import KINDS
from .choosing import SeveralError, choose, is_single_file
from .mirrors import MIRRORS, how_to_mirror, known_names, nearest
from .reference import (
    BUILT_IN,
    COMMIT,
    FORMS,
    MAIN,
    SINGLE_FILE,
    HubReference,
    as_path,
    is_address,
    parse_reference,
    parse_repository,
    shown,
)
from .selection import FILES, choose_component, files_in
from .state import default_model, mirror_of

LARGEST_REF = 200  # bytes; a commit has 40


@dataclass(frozen=True)
class Snapshot:
    """A model on this disk: how it was asked for, its folder or single file, and its commit if it is the hub's."""

    reference: str
    path: Path
    revision: str | None = None


def resolve(reference: str) -> Snapshot:
    """Where a model's files are, from a built-in name, a path, a repository's id or its address; no network.

    A .safetensors file stands for itself, also one of the cache that an address on the hub names. Raises
    ModelNotFoundError where there is nothing under this name, UnsupportedError for any other file.
    """
    try:
        return _resolve(reference)
    except ModelNotFoundError as error:
        if not _is_default(reference):
            raise
        remedy = f"{error.remedy.rstrip('.')}; for another default run: mlxdiff pull MODEL --set-default"
        raise ModelNotFoundError(f"This is the default model: {error.problem}", remedy) from None


def _resolve(reference: str) -> Snapshot:
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
    parsed = parse_reference(reference)
    if not is_address(reference) and not _is_in_cache(parsed):
        _refuse_files(reference, path)
    if parsed is None:
        raise _unknown(reference)
    return _cached(reference, parsed)


def cached_snapshot(reference: str, parsed: HubReference, place: str) -> tuple[str, str, Path]:
    """Name, commit and folder of what the cache has of a reference, or else of its mirror.

    Raises ModelNotFoundError where it has nothing; `place` is what the reference might have been instead, such as a
    folder. Raises UnsupportedError for a pickle.
    """
    refuse_pickle(parsed)
    name, revision = parsed.name, MAIN if parsed.revision is None else parsed.revision
    commit = cached_commit(name, revision)
    if commit is None and name in MIRRORS and (mirror := mirror_of(name)) is not None:
        name, commit = mirror, cached_commit(mirror, revision)
    if commit is None:
        nor = "" if is_address(reference) else f", and there is no such {place}"
        raise ModelNotFoundError(f"{reference} is not in the cache{nor}.", how_to_pull(reference))
    return name, commit, storage(name) / "snapshots" / commit


def _cached(reference: str, parsed: HubReference) -> Snapshot:
    name, commit, folder = cached_snapshot(reference, parsed, "folder")
    if parsed.file is not None and is_single_file(parsed.file):
        if not (folder / parsed.file).is_file():
            raise ModelNotFoundError(f"{reference} is not in the cache.", how_to_pull(reference))
        return Snapshot(str(HubReference(name, commit, parsed.file)), folder / parsed.file)
    if not (folder / MODEL_INDEX).is_file() and (file := _only_file(reference, folder)) is not None:
        return Snapshot(str(HubReference(name, commit, file)), folder / file)
    missing = what_is_missing(folder, name)
    if missing is not None:
        raise ModelNotFoundError(f"{reference} is in the cache, but not complete: {missing}.", how_to_pull(reference))
    return Snapshot(name, folder, commit)


def _only_file(reference: str, folder: Path) -> str | None:
    """The checkpoint that a snapshot consists of; None where it may be a model that is not complete.

    Raises UnsupportedError for a part, such as a LoRA, and where one of several files has to be named.
    """
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    try:
        choice = choose(names, None, None, reference, lambda path: read_json(folder / path))
    except SeveralError as error:
        raise UnsupportedError(error.problem, f"Name the one you want: {reference}/{error.files[0]}") from None
    except MlxdiffError:
        return None
    kind = None if choice.file is None else kind_if_sound(folder / choice.file)
    kind = choice.kind if kind is None else kind
    if kind in KINDS:
        row = KINDS[kind]
        raise UnsupportedError(f"{reference} is {row.article}, not a model.", f"Use it as {row.usage(reference)}")
    return choice.file


def refuse_pickle(reference: HubReference) -> None:
    """Raises UnsupportedError for an address of a pickle."""
    if reference.file is not None and reference.file.lower().endswith(PICKLES):
        raise UnsupportedError(
            f"{shown(reference.file)} of {reference.name} is a pickle, which could run any code when it is opened.",
            f"Give the address of a {SINGLE_FILE} file, or of the repository alone.",
        )


def is_local(reference: str) -> bool:
    """Whether a reference is built in or a path, and so nothing that the hub has."""
    path = as_path(reference)
    return reference == BUILT_IN or parse_repository(reference) is None or (path is not None and path.exists())


def storage(name: str) -> Path:
    """The repository's folder in the cache, laid out as Hugging Face documents it: refs, snapshots, blobs."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"


def cached_commit(name: str, revision: str) -> str | None:
    """The commit that a branch, tag or commit stands for in the cache; None where its snapshot is not there."""
    folder = storage(name)
    try:
        with open_regular(folder / "refs" / revision) as stream:
            commit = stream.read(LARGEST_REF).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        commit = revision
    known = COMMIT.fullmatch(commit) is not None and (folder / "snapshots" / commit).is_dir()
    return commit if known else None


def what_is_missing(folder: Path, name: str) -> str | None:
    """What a snapshot lacks of the files that mlxdiff loads, in words; None when it is complete.

    Complete is what has all that its own index lists, whether or not mlxdiff implements it.
    """
    try:
        index = read_json(folder / MODEL_INDEX)
    except CheckpointError:
        return f"its {MODEL_INDEX} is missing or damaged"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for component in FILES:
        listed = index.get(component)
        if isinstance(listed, list) and any(listed):
            try:
                choose_component(component, files_in(component, names), None, name)
            except MlxdiffError as error:
                return error.problem.rstrip(".")
    return None


def _is_in_cache(parsed: HubReference | None) -> bool:
    """Whether owner/name/file is of a repository in the cache, and not a path with a mistake in it."""
    return parsed is not None and parsed.file is not None and storage(parsed.name).is_dir()


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
        on_hub = f" If it is on the hub, run: mlxdiff pull {reference}" if parse_reference(reference) else ""
        raise ModelNotFoundError(f"There is no file {reference}.", f"Check the path.{on_hub}")
    if is_file:
        raise UnsupportedError(
            f"{reference} is a file of another kind than {SINGLE_FILE}, the only one that mlxdiff loads models from.",
            "Give a checkpoint's .safetensors file, or a folder in the diffusers layout.",
        )


def _unknown(reference: str) -> ModelNotFoundError:
    if not reference.strip():
        return ModelNotFoundError("The model's name is empty.", FORMS)
    if is_address(reference):
        return ModelNotFoundError(
            f"{shown(reference)} is no address of a model on the Hugging Face hub.",
            "Give owner/name, or the address of its page. A file from elsewhere: download it and give its path.",
        )
    if any(mark in reference for mark in ("/", "\\", "~")) or reference.startswith("."):
        return ModelNotFoundError(f"There is no folder {reference}.", f"Check the path. {FORMS}")
    near = nearest(reference, [BUILT_IN, *cached_names()])
    hint = f"Did you mean {near}? " if near is not None else ""
    return ModelNotFoundError(f"There is no model {reference!r}.", f"{hint}{FORMS}")


def how_to_pull(asked: str) -> str:
    """What to run for a repository that is not in the cache."""
    parsed = parse_repository(asked)
    name = asked if parsed is None else parsed[0]
    if name in MIRRORS:
        return f"It was removed from the hub. {how_to_mirror(asked, MIRRORS[name])}"
    near = None if name in known_names() else nearest(name, cached_names())
    if near is None or near.lower() == name.lower():
        return f"Run: mlxdiff pull {asked}"
    return f"Run: mlxdiff pull {asked}; or did you mean {near}?"


def cached_names() -> list[str]:
    """The repositories that have a folder in the cache, whatever is in it."""
    return [name for _, name in cached_folders()]


def cached_folders() -> list[tuple[Path, str]]:
    """The folders of the cache that are models' repositories, with their names; others are left out."""
    from huggingface_hub import constants

    found = []
    for folder in sorted(Path(constants.HF_HUB_CACHE).glob("models--*--*")):
        name = folder.name.removeprefix("models--").replace("--", "/", 1)
        if parse_repository(name) == (name, None) and folder.is_dir():
            found.append((folder, name))
    return found


def _is_default(reference: str) -> bool:
    with suppress(MlxdiffError):  # a state that is damaged has its own error, elsewhere
        return reference == default_model() != BUILT_IN
    return False
