"""What a picture is made with besides its model (LoRAs, VAEs, ...), by name, path or hub id; no network."""

from __future__ import annotations

from pathlib import Path

from ..checkpoint.detect import PICKLES, read_json, tiny_vae_halves
from ..checkpoint.kinds import kind_if_sound
from ..errors import CheckpointError, InputError, ModelNotFoundError, UnsupportedError
from ..part_kinds import KINDS, MODEL, kind_of_config, noun_of
from ..parts import MODEL_INDEX
from .choosing import CONFIG, SeveralError, choose, is_component_file
from .contents import entries_of
from .local import cached_commit, cached_snapshot, how_to_pull, resolve, storage
from .reference import MAIN, SINGLE_FILE, HubReference, as_path, is_address, parse_reference, shown
from .shelf import find_named, nearest_names


def find_part(reference: str, kind: str) -> Path:
    """The .safetensors file or the folder of a part, from what a user calls it; no network.

    reference  a path; a NAME in the folders of the kind's variable (MLXDIFF_LORAS and the like) or in mlxdiff's store;
               owner/name[/file][@revision], a short name or an address of what is in the cache
    Raises ModelNotFoundError, which says what to run, for what is not there; UnsupportedError for a pickle, for another
    kind of part, and where several files could be meant; InputError for a pipe or a broken link; CheckpointError for a
    damaged config.
    """
    path = as_path(reference)
    if path is not None and (path.is_dir() or (path.is_file() and path.suffix.lower() == SINGLE_FILE)):
        return path
    _refuse_files(reference, path, kind)
    if not any(mark in reference for mark in "/\\"):
        found = find_named(reference, kind) if reference.strip() else None
        if found is not None:
            return found
    if path is not None and (path.exists() or path.is_symlink()):
        what = "a pipe, a device or a socket" if path.exists() else "a link that leads nowhere"
        raise InputError(f"{reference} is {what}, not a file.", f"Give the {noun_of(kind)} as {SINGLE_FILE}.")
    parsed = parse_reference(reference)
    if parsed is None:
        raise _unknown(reference, kind)
    return _cached(reference, parsed, kind)


def resolve_vae(reference: str) -> Path:
    """Where a VAE to use instead of a model's own is: a part of that kind, or a model, whose VAE is meant.

    Raises what `find_part` and `resolve` raise; no network.
    """
    path = as_path(reference)
    if path is not None and path.is_dir():
        is_part = (path / CONFIG).is_file() and not (path / MODEL_INDEX).is_file()
        return path if is_part or tiny_vae_halves(path) else resolve(reference).path
    return find_part(reference, "vae")


def find_image_encoder(reference: str) -> Path:
    """The folder of an image encoder for IP-Adapters: a path, or owner/name/folder of what is in the cache; no network.

    Raises ModelNotFoundError.
    """
    path = as_path(reference)
    if path is not None and path.is_dir():
        return path
    parsed = parse_reference(f"{reference}/model{SINGLE_FILE}")
    if parsed is not None and parsed.file is not None and not is_address(reference):
        commit = cached_commit(parsed.name, MAIN)
        file = None if commit is None else storage(parsed.name) / "snapshots" / commit / parsed.file
        if file is not None and file.is_file():
            return file.parent
    raise ModelNotFoundError(
        f"There is no folder {reference} of an image encoder.", "Check its name; an encoder comes with its IP-Adapter."
    )


def kind_of_folder(folder: Path) -> str | None:
    """The kind of part that a folder on this disk is, by its config.json; None for anything else."""
    try:
        return kind_of_config(read_json(folder / CONFIG)) if (folder / CONFIG).is_file() else None
    except (CheckpointError, OSError, ValueError):
        return None


def _cached(reference: str, parsed: HubReference, kind: str) -> Path:
    name, _, folder = cached_snapshot(reference, parsed, "file or folder")
    names = [entry.path for entry in entries_of(storage(name), folder) if entry.content is not None]
    if KINDS[kind].is_in_models and parsed.file is None and MODEL_INDEX in names:
        return resolve(reference).path
    if parsed.file is not None and parsed.file not in names:
        raise ModelNotFoundError(f"{reference} is not in the cache.", how_to_pull(reference))
    try:
        choice = choose(names, parsed.file, None, name, lambda path: read_json(folder / path))
    except SeveralError as error:
        file = _only_one(folder, error.files, kind)
        if file is None:
            one = KINDS[kind].usage(HubReference(name, parsed.revision, error.files[0]).typed)
            raise UnsupportedError(error.problem, f"Name the one you want, such as {one}") from None
        return folder / file
    except CheckpointError as error:
        problem = f"{reference} is in the cache, but not complete: {error.problem.rstrip('.')}."
        raise ModelNotFoundError(problem, how_to_pull(reference)) from None
    is_component = choice.file is None or (is_component_file(Path(choice.file).name) and len(choice.files) > 1)
    found = folder if choice.file is None else folder / choice.file
    _check_kind(reference, choice.kind if is_component else kind_if_sound(found), kind)
    return found.parent if choice.file is not None and is_component else found


def _only_one(folder: Path, files: tuple[str, ...], kind: str) -> str | None:
    """The file of a kind, where a repository has several files and one alone is of that kind."""
    fitting = [file for file in files if kind_if_sound(folder / file) == kind]
    return fitting[0] if len(fitting) == 1 else None


def _check_kind(reference: str, found: str | None, kind: str) -> None:
    """Raises UnsupportedError where a part is surely of another kind than it is used as."""
    if found is None or found == kind or (found == MODEL and KINDS[kind].is_in_models):
        return
    how = f"--model {reference}" if found == MODEL else KINDS[found].usage(reference)
    article = "a model" if found == MODEL else KINDS[found].article
    raise UnsupportedError(f"{reference} is {article}, not {KINDS[kind].article}.", f"Use it as {how}")


def _refuse_files(reference: str, path: Path | None, kind: str) -> None:
    suffix = Path(reference).suffix.lower()
    if suffix in PICKLES:
        keys = " or ".join(KINDS[kind].pickled_at)
        inside, hint = ("[KEY]", f", where KEY is {keys}, if there is one") if keys else ("", "")
        raise UnsupportedError(
            f"{reference} is a pickle, which could run any code when it is opened.",
            f"Look for the {noun_of(kind)} as {SINGLE_FILE}. One that you trust can be converted with PyTorch:"
            f" safetensors.torch.save_file(torch.load(FILE, weights_only=True){inside}, 'NAME.safetensors'){hint}",
        )
    if path is not None and path.is_file():
        raise UnsupportedError(
            f"{reference} is a file of another kind than {SINGLE_FILE}.", f"Give the {noun_of(kind)} as {SINGLE_FILE}."
        )


def _unknown(reference: str, kind: str) -> ModelNotFoundError:
    row = KINDS[kind]
    if not reference.strip():
        return ModelNotFoundError(f"The name of the {row.noun} is empty.", "Give a name, a path or a hub id.")
    if is_address(reference):
        return ModelNotFoundError(
            f"{shown(reference)} is no address on the Hugging Face hub.",
            f"Download the file, then run: mlxdiff pull FILE{SINGLE_FILE}",
        )
    if any(mark in reference for mark in "/\\"):
        return ModelNotFoundError(f"There is no file or folder {reference}.", "Check the path.")
    near = nearest_names(reference, kind)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return ModelNotFoundError(
        f"There is no {row.noun} {shown(reference)} in {row.variable} or in mlxdiff's store.",
        f"{hint}To add a file run: mlxdiff pull FILE{SINGLE_FILE}; from the hub: mlxdiff pull owner/name",
    )
