"""What the scripts are given and where they write, checked before hours are spent: SystemExit says what is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

METADATA = "metadata.jsonl"
FILES = ("file_name", "conditioning_image")


def rows(folder: Path, needed: Sequence[str], remedy: str) -> list[dict[str, Any]]:
    """The lines of a folder's metadata, each with the `needed` fields; `remedy` says where there is none."""
    path = folder / METADATA
    if not path.is_file():
        raise SystemExit(f"There is no {path}. {remedy}")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"{path} cannot be read ({_reason(error)}). Save it as UTF-8 text.") from None
    found = [_row(f"{path}, line {n}", line, needed) for n, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise SystemExit(f"{path} is empty. {remedy}")
    return found


def _row(place: str, line: str, needed: Sequence[str]) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SystemExit(f"{place} is not JSON ({_reason(error)}). Write one object a line.") from None
    if not isinstance(row, dict):
        raise SystemExit(f"{place} is not an object. Write {', '.join(needed)} with their values.")
    missing = [name for name in needed if name not in row]
    if missing:
        raise SystemExit(f"{place} has no {missing[0]}. Each line needs {', '.join(needed)}.")
    wrong = [name for name in (*FILES, "text") if not isinstance(row.get(name, ""), str)]
    if wrong:
        raise SystemExit(f"{place}: {wrong[0]} is not text. Write it in quotes.")
    return row


def picture(path: Path) -> Image.Image:
    """A picture, decoded."""
    try:
        with Image.open(path) as opened:
            opened.load()
            return opened.copy()
    except FileNotFoundError:
        raise SystemExit(
            f"There is no {path}, which {METADATA} names. Correct the name, or take the line out."
        ) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SystemExit(f"{path} cannot be read ({_reason(error)}). Take its line out of {METADATA}.") from None


def pixels(paths: Sequence[Path], mode: str) -> np.ndarray:
    """(N, H, W, channels of `mode`) uint8, of pictures that are all of one size."""
    with ThreadPoolExecutor() as pool:
        arrays = list(pool.map(lambda path: np.asarray(picture(path).convert(mode)), paths))
    other = next((i for i, array in enumerate(arrays) if array.shape != arrays[0].shape), None)
    if other is not None:
        sizes = [f"{paths[i]} is {arrays[i].shape[1]}x{arrays[i].shape[0]}" for i in (0, other)]
        raise SystemExit(f"The pictures have different sizes: {', and '.join(sizes)}. Resize all to one.")
    return np.stack(arrays)


def part(kind: Any, folder: Path, **how: Any) -> Any:
    """A part of a checkpoint in diffusers' or transformers' class, from this disk alone."""
    if not folder.is_dir():
        raise SystemExit(f"There is no {folder}. Give a folder in the diffusers layout.")
    try:
        return kind.from_pretrained(folder, local_files_only=True, **how)
    except Exception as error:  # whatever a damaged file makes of them
        raise SystemExit(f"{folder} cannot be read ({_reason(error)}). Take another, or copy it again.") from None


def check_output(*paths: Path | None) -> None:
    """Makes the folders of files that are written when all is done."""
    for path in (path for path in paths if path is not None):
        if path.is_dir():
            raise SystemExit(f"{path} is a folder. Name a file in it.")
        make(path.parent)


def make(folder: Path) -> None:
    """Makes a folder, which must take files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(f"{folder} cannot be made ({_reason(error)}). Name another folder.") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SystemExit(f"There is no permission to write in {folder}. Name another folder.")


def _reason(error: BaseException) -> str:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines: Iterable[str] = (line.strip() for line in said.splitlines())
    return next((line[:200] for line in lines if line), type(error).__name__)
