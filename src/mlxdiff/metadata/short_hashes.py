"""The short hashes of what a picture was made with, as A1111 and Civitai write them, so that both recognise the files.

    Model hash: 1234567890, VAE hash: ..., Lora hashes: "style: 123456789012", TI hashes: "worm: 123456789012"
    Hashes: {"model": "1234567890", "lora:style": "1234567890", "embed:worm": ..., "vae": ...}

A1111 knows a LoRA by the data behind its header (AutoV3), all else by the whole file; Civitai's `Hashes` are of whole
files (AutoV2). Only single files have such hashes; what cannot be read is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .. import hub
from ..errors import MlxdiffError
from ..named_files import NamedFile, named_files
from ..part_kinds import KINDS
from ..request import Request

LONG, SHORT = 12, 10  # digits

# What A1111 calls the list of a kind's hashes, and Civitai's prefix of a name.
_LISTS = {"lora": ("Lora hashes", "lora"), "embedding": ("TI hashes", "embed")}


@dataclass(frozen=True)
class ShortHashes:
    """values: by their names in A1111's text, in its order. civitai: JSON for `Hashes`; None where there is nothing."""

    values: dict[str, str]
    civitai: str | None


def short_hashes(request: Request) -> ShortHashes:
    """The hashes of the single files that a request names. Reads a file that was not read before."""
    values: dict[str, str] = {}
    lists: dict[str, list[str]] = {}
    short: dict[str, str] = {}
    model = _model_file(request)
    if model is not None:
        values["Model hash"] = short["model"] = model[:SHORT]
    for file, path in _single_files(request):
        with suppress(OSError):
            if file.kind == "vae":
                values |= {"VAE": path.name, "VAE hash": hub.file_hash(path)[:SHORT]}
                short["vae"] = values["VAE hash"]
            elif file.kind in _LISTS:
                listed, prefix = _LISTS[file.kind]
                hashes = hub.hashes_of(path)
                name = _name(file, path)
                digest = hashes.data if file.kind == "lora" else hashes.file
                lists.setdefault(listed, []).append(f"{name}: {digest[:LONG]}")
                short[f"{prefix}:{name}"] = hashes.file[:SHORT]
    values |= {listed: ", ".join(dict.fromkeys(entries)) for listed, entries in lists.items()}
    return ShortHashes(values, json.dumps(short) if short else None)


def _model_file(request: Request) -> str | None:
    """The hash of the checkpoint, where it is a single file."""
    if request.model is None:
        return None
    with suppress(MlxdiffError, OSError):
        path = hub.resolve(request.model).path
        return hub.file_hash(path) if path.is_file() else None
    return None


def _single_files(request: Request) -> Iterator[tuple[NamedFile, Path]]:
    for file in named_files(request):
        if file.kind is not None:
            with suppress(MlxdiffError, OSError):
                path = file.find()
                if path.is_file():
                    yield file, path


def _name(file: NamedFile, path: Path) -> str:
    """The file's, or its repository's where all are called alike; without the marks that would end it in the text."""
    name, parsed = path.stem, hub.parse_reference(file.name)
    if parsed is not None and file.kind in KINDS and path.name == KINDS[file.kind].file:
        name = parsed.name.partition("/")[2]
    return name.replace(":", "").replace(",", "")
