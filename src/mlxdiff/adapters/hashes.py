"""The hashes that other programs and Civitai know a LoRA file by."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path

from ..errors import CheckpointError
from ..files import open_regular
from ..hashing import BLOCK, content_hash


def file_hash(path: Path) -> str:
    """SHA-256 of the whole file: 64 hexadecimal digits, of which Civitai's AutoV2 are the first 10."""
    return content_hash(path)


def tensors_hash(path: Path) -> str:
    """SHA-256 of what follows the header, which stays the same when metadata change: 64 hexadecimal digits.

    Of these A1111 writes the first 12 as "Lora hashes", kohya all as `sshs_model_hash`; they are Civitai's AutoV3.
    Computed once for as long as the file stays the same. Raises CheckpointError.
    """
    try:
        about = os.stat(path)
        return _tensors_hash(path, about.st_size, about.st_mtime_ns, about.st_ino)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}).", "Check its name.") from None


@lru_cache(maxsize=256)
def _tensors_hash(path: Path, *_: int) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as stream:
        stream.seek(8 + int.from_bytes(stream.read(8), "little"))
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
