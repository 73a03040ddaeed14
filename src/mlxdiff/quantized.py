"""Quantized copies of models: made once, checked when they are loaded, and used wherever the same bits are asked for.

A copy is a folder in the diffusers layout below `hub.home()/quantized`. Its `quantized.json` says what it was made
from; a copy whose source has changed since is not used. Its weights are those that quantizing on the fly gives.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from . import hub
from .checkpoint.detect import read_json, weight_files
from .checkpoint.header import read_header
from .checkpoint.quantize import BITS, quantized_layers
from .checkpoint.stored import AGAIN, KEY, Quantization
from .errors import CheckpointError, RequestError, UnsupportedError
from .families import base
from .files import output_error
from .parts import MODEL_INDEX, PARTS, SETTINGS, Part

RECORD = "quantized.json"
FORMAT = 1
GROUP_SIZE = 64
UNFINISHED = ".unfinished-"
STALE = 24 * 3600  # seconds after which an unfinished copy counts as abandoned


@dataclass(frozen=True)
class Copy:
    """A stored copy: its folder, its bits, and what it was made from; `size` in bytes."""

    path: Path
    bits: int
    source: str
    revision: str | None
    size: int


def store(reference: str, bits: int) -> Path:
    """The folder of the model's quantized copy, made now unless there is one that matches; no network.

    Raises ModelNotFoundError and CheckpointError for the source, RequestError for other than 8 or 4 bits, OutputError
    where the copy cannot be written.
    """
    if type(bits) is not int or bits not in BITS:
        raise RequestError(f"Weights cannot be quantized to {bits!r} bits.", "Choose 8 or 4.")
    snapshot = hub.resolve(reference)
    found = find(snapshot, bits)
    return write_quantized(snapshot, bits, folder_of(snapshot, bits)) if found is None else found


def find(snapshot: hub.Snapshot, bits: int) -> Path | None:
    """The stored copy of this very snapshot in these bits, or None. Raises CheckpointError for a damaged one."""
    folder = folder_of(snapshot, bits)
    record = read_record(folder)
    if record is None or record["bits"] != bits or record["group_size"] != GROUP_SIZE:
        return None
    if record["revision"] != snapshot.revision or record["files"] != _fingerprint(snapshot):
        return None
    for name, size in record["weights"].items():
        if not (folder / name).is_file() or (folder / name).stat().st_size != size:
            raise CheckpointError(f"{folder / name} is missing or not whole.", AGAIN)
    return folder


def copies() -> list[Copy]:
    """Every copy there is, by folder; damaged and unfinished ones are left out."""
    found = []
    for folder in sorted(_root().glob("*/")):
        with suppress(CheckpointError, UnsupportedError):
            record = None if folder.name.startswith(UNFINISHED) else read_record(folder)
            if record is not None:
                size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                found.append(Copy(folder, record["bits"], record["source"], record["revision"], size))
    return found


def write_quantized(snapshot: hub.Snapshot, bits: int, destination: Path) -> Path:
    """Writes the copy to the folder `destination`, which appears whole or not at all; an older one is replaced."""
    if not snapshot.path.is_dir():
        raise UnsupportedError(
            f"{snapshot.reference} is a single file, of which no quantized copy is kept.",
            "Use the model in the diffusers layout, or quantize it while it is loaded.",
        )
    if (snapshot.path / RECORD).exists():
        raise RequestError(f"{snapshot.reference} is a quantized copy already.", "Name the model it was made from.")
    checkpoint = base.read_checkpoint(snapshot.path)
    files = _fingerprint(snapshot)
    part = destination.parent / f"{UNFINISHED}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        part.mkdir(parents=True)
        _remove_unfinished(destination.parent)
        weights: dict[str, int] = {}
        for piece in PARTS:
            if piece.name not in checkpoint.index.components:
                continue
            if piece.quantized:
                path = _write_network(checkpoint, piece, bits, part)
                weights[path.relative_to(part).as_posix()] = path.stat().st_size
            else:
                _copy_part(snapshot.path / piece.name, part / piece.name, with_weights=piece.weights is not None)
        for name in (MODEL_INDEX, SETTINGS):
            if (snapshot.path / name).exists():
                shutil.copyfile(snapshot.path / name, part / name)
        record = {
            "format": FORMAT,
            "bits": bits,
            "group_size": GROUP_SIZE,
            "source": snapshot.reference,
            "revision": snapshot.revision,
            "files": files,
            "weights": weights,
        }
        _write_json(part / RECORD, record)
        _take_place(part, destination)
    except OSError as error:
        raise output_error(destination, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return destination


def bits_of(folder: Path) -> int | None:
    """The bits of a folder that is itself a copy; None for any other."""
    record = read_record(folder)
    return None if record is None else record["bits"]


def read_record(folder: Path) -> dict[str, Any] | None:
    """What a copy says that it was made from; None where the folder is no copy. Raises CheckpointError."""
    path = folder / RECORD
    if not path.is_file():
        return None
    record = read_json(path)
    if record.get("format") != FORMAT:
        raise UnsupportedError(f"{path} is of the format {str(record.get('format'))[:40]}, not {FORMAT}.", AGAIN)
    types: Mapping[str, Any] = {"bits": int, "group_size": int, "source": str, "files": dict, "weights": dict}
    whole = all(type(record.get(key)) is expected for key, expected in types.items())
    if not whole or "revision" not in record or record["bits"] not in BITS:
        raise CheckpointError(f"{path} is damaged.", AGAIN)
    names = record["weights"]
    if not all(re.fullmatch(r"\w+/[\w.]+", name) and type(size) is int for name, size in names.items()):
        raise CheckpointError(f"{path} is damaged.", AGAIN)
    return record


def folder_of(snapshot: hub.Snapshot, bits: int) -> Path:
    """Where the copy of a snapshot is kept, whether or not it is there."""
    if snapshot.revision is not None:
        name = f"{snapshot.reference.replace('/', '--')}@{snapshot.revision[:12]}"
    else:
        place = hashlib.sha256(os.fsencode(snapshot.path.resolve())).hexdigest()[:12]
        name = f"{re.sub(r'[^A-Za-z0-9._-]', '_', snapshot.path.resolve().name)[:80]}-{place}"
    return _root() / f"{name}-{bits}bit"


def _root() -> Path:
    return hub.home() / "quantized"


def _fingerprint(snapshot: hub.Snapshot) -> dict[str, list[int | None]]:
    """Name -> size, and time of change where no revision says that the files are the same."""
    stats = {}
    for path in sorted(snapshot.path.rglob("*")):
        if path.suffix in (".json", ".txt", ".safetensors") and path.is_file():
            stat = path.stat()
            time_of_change = stat.st_mtime_ns if snapshot.revision is None else None
            stats[path.relative_to(snapshot.path).as_posix()] = [stat.st_size, time_of_change]
    return stats


def _write_network(checkpoint: base.Checkpoint, piece: Part, bits: int, folder: Path) -> Path:
    module = base.load_network(checkpoint, piece.name, None, bits).module
    parameters: dict[str, mx.array] = dict(tree_flatten(module.parameters()))
    arrays = {path: _as_stored(array) for path, array in parameters.items()}
    folder = folder / piece.name
    folder.mkdir()
    path = folder / f"{piece.weights}.safetensors"
    try:
        mx.save_safetensors(str(path), arrays, {"format": "mlx"})
    except RuntimeError as error:
        raise OSError(str(error)) from None
    # Also a disk that filled up unnoticed shows here: the header's sizes are compared with the file's.
    read_header(path)
    _sync(path)
    record = Quantization(bits, GROUP_SIZE, quantized_layers(module))
    config = checkpoint.source.config(piece.name)
    _write_json(folder / piece.config, {**config, KEY: record.to_dict()})
    return path


def _as_stored(array: mx.array) -> mx.array:
    """A parameter in torch's layout, which the files keep."""
    return mx.contiguous(array.transpose(0, 3, 1, 2)) if array.ndim == 4 else array


def _copy_part(source: Path, target: Path, *, with_weights: bool) -> None:
    target.mkdir()
    paths = [path for path in source.iterdir() if path.suffix in (".json", ".txt") and path.is_file()]
    if with_weights:
        paths += weight_files(source).paths
    for path in paths:
        shutil.copyfile(path, target / path.name)
        _sync(target / path.name)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _take_place(part: Path, destination: Path) -> None:
    """Gives the finished folder its name. What had the name is moved aside first, so no half folder is ever found."""
    try:
        part.rename(destination)
    except OSError:
        aside = destination.parent / f"{UNFINISHED}{os.getpid()}-{secrets.token_hex(4)}"
        destination.rename(aside)
        part.rename(destination)
        shutil.rmtree(aside, ignore_errors=True)


def _remove_unfinished(root: Path) -> None:
    for folder in root.glob(f"{UNFINISHED}*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > STALE:
                shutil.rmtree(folder, ignore_errors=True)
