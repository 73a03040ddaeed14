"""Folders of wildcards, and every prompt that a text makes with one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mlxdiff.batch.wildcard_files import WildcardFiles
from mlxdiff.batch.wildcards import Wildcards
from mlxdiff.request import Request


def written(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def all_of(text: str, folder: Path | None) -> list[str]:
    (found,) = Wildcards(WildcardFiles(folder), every=True).combinations(Request(text, seed=0))
    return list(found.prompt)
