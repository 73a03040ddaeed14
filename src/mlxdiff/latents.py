"""Latents on disk: safetensors files with the Request that made them, to be decoded later or elsewhere."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from .errors import InputError, RequestError
from .files import atomic_write
from .request import Request

KEY = "latents"
MAX_JSON = 2**20


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


def holds_latents(path: Path) -> bool:
    """Whether a safetensors file is one of latents, going by its keys; False for one that cannot be read."""
    try:
        with safe_open(path, framework="numpy") as file:
            return KEY in file.keys()  # noqa: SIM118 (a handle, not a dict)
    except (OSError, SafetensorError):
        return False


def load_latents(path: str | Path) -> SavedLatents:
    """Reads what `save_latents` wrote; raises InputError for a file that is damaged or something else."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no file {path}.", "Check its name and folder.")
    try:
        with safe_open(path, framework="np") as file:
            names, metadata = list(file.keys()), file.metadata()
            if KEY not in names:
                raise InputError(f"{path} holds no latents.", "Give a file that `generate --save-latents` wrote.")
            array = file.get_tensor(KEY)
    except PermissionError:
        raise InputError(f"There is no permission to read {path}.", "Change its permissions.") from None
    except (SafetensorError, OSError, TypeError, ValueError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not a sound safetensors file ({reason}).", "Get the file again.") from error
    if array.ndim not in (4, 5) or 0 in array.shape or array.dtype.kind != "f":
        raise InputError(
            f"The latents in {path} are {array.dtype} of shape {array.shape}.",
            "They are floats (images, height, width, channels), or (steps, ...) of them.",
        )
    metadata = {} if metadata is None else metadata
    return SavedLatents(array.astype(np.float32, copy=False), request_in(path, metadata), metadata.get("model"))


def request_in(path: Path, metadata: dict[str, str]) -> Request | None:
    """The request that a file's metadata holds, if any; raises InputError where it cannot be used."""
    text = metadata.get("mlxdiff")
    if text is None:
        return None
    if len(text) > MAX_JSON:
        raise InputError(f"The request in {path} is {len(text)} characters long.", f"At most {MAX_JSON} are read.")
    try:
        return Request.from_json(text)
    except RequestError as error:
        raise InputError(f"The request in {path} cannot be used: {error.problem}", error.remedy) from error
