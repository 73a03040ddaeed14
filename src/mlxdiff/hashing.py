"""SHA-256 of contents: of a file, a picture, or a component's folder.

Each is computed once for as long as the files stay the same.
"""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path

from .files import open_regular
from .inputs import unreadable
from .request.pictures import Pixels, in_file

BLOCK = 2**20


def content_hash(path: Path) -> str:
    """64 hexadecimal digits, of a file, or of the .json and .safetensors files of a folder. Raises InputError."""
    try:
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix in (".json", ".safetensors"))
            lines = "".join(f"{file.name} {_of_file(file)}\n" for file in files)
            return hashlib.sha256(lines.encode()).hexdigest()
        return _of_file(path)
    except (OSError, ValueError) as error:
        raise unreadable(path, error, "picture") from None


def picture_hash(picture: str | Pixels) -> str:
    """64 hexadecimal digits, of a picture that a request names or holds. Raises InputError."""
    return picture.sha256 if isinstance(picture, Pixels) else content_hash(Path(in_file(picture)))


def _of_file(path: Path) -> str:
    about = os.stat(path)
    return _computed(path, about.st_size, about.st_mtime_ns, about.st_ino)


@lru_cache(maxsize=256)
def _computed(path: Path, size: int, *_: int) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as stream:
        if size == 0:  # some that the system makes up, as in /proc, have no length and wait for ever
            return digest.hexdigest()
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
