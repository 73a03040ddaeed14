"""Latents on disk: safetensors files with the Request that made them, to be decoded later or elsewhere."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from . import budget
from .errors import InputError, RequestError
from .files import atomic_write
from .inputs import open_input
from .request import Request

KEY = "latents"
MAX_JSON = 2**20
MAX_HEADER = 2**22  # bytes: that of a checkpoint in one file has about 300,000
_BYTES = {"F64": 8, "F32": 4, "F16": 2}  # what NumPy reads


@dataclass(frozen=True)
class SavedLatents:
    """`array` is (B, h, w, C) fp32, or (T, B, h, w, C) for a trajectory; `model` is a reference, with its revision."""

    array: np.ndarray
    request: Request | None
    model: str | None

    @property
    def is_trajectory(self) -> bool:
        return self.array.ndim == 5


def save_latents(path: str | Path, latents: np.ndarray, request: Request, *, force: bool = False) -> None:
    """Writes latents (B, h, w, C), or (T, B, h, w, C), as fp32, with their resolved request; raises OutputError."""
    data = encode_latents(latents, request)
    atomic_write(path, lambda stream: stream.write(data), force=force)


def encode_latents(latents: np.ndarray, request: Request, **beside: np.ndarray) -> bytes:
    """The bytes of the file that `save_latents` writes; `beside` are more arrays, by name."""
    if latents.ndim not in (4, 5):
        raise ValueError(f"latents are (B, h, w, C) or (T, B, h, w, C), not of shape {latents.shape}")
    metadata = {"mlxdiff": request.to_json()}
    if request.model is not None:
        metadata["model"] = request.model if request.revision is None else f"{request.model}@{request.revision}"
    arrays = {KEY: latents, **beside}
    data = save({name: np.ascontiguousarray(array, dtype=np.float32) for name, array in arrays.items()}, metadata)
    # safetensors writes the metadata in a random order; the same latents shall be the same file.
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """A safetensors file, open while in use: its header is read and nothing else. Raises InputError.

    Anything but a regular file is refused before safetensors maps it, and so is a header that is too long to be one of
    latents, which would cost twenty times its length.
    """
    with open_input(path) as stream:
        length = int.from_bytes(stream.read(8), "little")
        longest = min(MAX_HEADER, os.fstat(stream.fileno()).st_size)
    if length > longest:
        raise InputError(f"{path} is not a sound safetensors file (a header of {length} bytes).", "Get the file again.")
    with _unsound(path):
        file = safe_open(path, framework="np").__enter__()
    try:
        yield file
    finally:
        file.__exit__(None, None, None)


@contextmanager
def _unsound(path: Path) -> Iterator[None]:
    """What safetensors says of a file, as an InputError."""
    try:
        yield
    except (SafetensorError, OSError, TypeError, ValueError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not a sound safetensors file ({reason}).", "Get the file again.") from error


def holds_latents(path: Path) -> bool:
    """Whether a safetensors file is one of latents, going by its keys; False for one that cannot be read."""
    try:
        with open_tensors(path) as file:
            return KEY in file.keys()  # noqa: SIM118 (a handle, not a dict)
    except InputError:
        return False


@dataclass(frozen=True)
class LatentsInfo:
    """What a file of latents says without being read: `shape` as of SavedLatents.array."""

    shape: tuple[int, ...]
    request: Request | None
    model: str | None


def read_info(path: str | Path) -> LatentsInfo:
    """What `load_latents` would find, from the header alone, however large the file is; raises as that."""
    path = Path(path)
    with open_tensors(path) as file:
        _, info = _checked(path, file)
    return info


def load_latents(path: str | Path) -> SavedLatents:
    """Reads what `save_latents` wrote; raises InputError for a file that is damaged, something else or too large."""
    path = Path(path)
    with open_tensors(path) as file:
        kind, info = _checked(path, file)
        needed = math.prod(info.shape) * (_BYTES[kind] + 4)
        if not budget.fits(needed):
            raise InputError(f"{path} {budget.lack(needed)}.", "Decode it where there is more, or in parts.")
        with _unsound(path):
            array = file.get_tensor(KEY)
    return SavedLatents(array.astype(np.float32, copy=False), info.request, info.model)


def _checked(path: Path, file: Any) -> tuple[str, LatentsInfo]:
    """The type that the file stores, and what it says."""
    if KEY not in file.keys():  # noqa: SIM118
        raise InputError(f"{path} holds no latents.", "Give a file that `generate --save-latents` wrote.")
    part = file.get_slice(KEY)
    shape, kind = tuple(part.get_shape()), part.get_dtype()
    if len(shape) not in (4, 5) or 0 in shape or kind not in _BYTES:
        raise InputError(
            f"The latents in {path} are {kind} of shape {shape}.",
            "They are floats (images, height, width, channels), or (steps, ...) of them.",
        )
    metadata = file.metadata()
    metadata = {} if metadata is None else metadata
    return kind, LatentsInfo(shape, request_in(path, metadata), metadata.get("model"))


def request_in(path: Path, metadata: dict[str, str]) -> Request | None:
    """The request that a file's metadata holds, if any; raises InputError where it cannot be used."""
    text = metadata.get("mlxdiff")
    if text is None:
        return None
    if len(text) > MAX_JSON:
        raise InputError(f"The request in {path} is {len(text)} characters long.", f"At most {MAX_JSON} are read.")
    try:
        return Request.recorded(text)
    except RequestError as error:
        raise InputError(f"The request in {path} cannot be used: {error.problem}", error.remedy) from error
