"""Latents and trajectories: whole, all numbers finite, and of the picture that they lie beside."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import InputError
from ..latents import KEY, MAX_HEADER, open_tensors, request_in
from ..request import Request
from ..trajectory import DENOISED, SUFFIX
from .fault import UnsoundError, damaged
from .reading import BLOCK

LATENTS = ".safetensors"
_FLOATS: dict[str, Any] = {"F16": np.float16, "F32": np.float32, "F64": np.float64}


def picture_of(path: Path) -> Path:
    """NAME without a suffix, of the picture that a file lies beside."""
    name = path.name.removesuffix(SUFFIX) if path.name.endswith(SUFFIX) else path.name.removesuffix(LATENTS)
    return path.with_name(name)


def holds_ours(path: Path) -> bool:
    """Whether the file is one of latents; what cannot be read is none, since anything may be called .safetensors."""
    try:
        with open_tensors(path) as file:
            return KEY in file.keys() and "mlxdiff" in (file.metadata() or {})  # noqa: SIM118 (a handle, not a dict)
    except InputError:
        return False


def check_latents(path: Path, stream: BinaryIO) -> Request | None:
    """The request of the latents in an open file; raises UnsoundError.

    The header is read by safetensors, which holds it to the file's length. The numbers are read as a file is, not
    mapped: a file that becomes shorter meanwhile would end the process.
    """
    try:
        with open_tensors(path) as file:
            names = list(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            metadata = file.metadata()
        request = request_in(path, {} if metadata is None else metadata)
    except InputError as error:
        raise damaged(error.problem.replace(f"{path} is", "It is").replace(f"in {path} ", "")) from None
    if len(shapes.get(KEY, ())) not in (4, 5):
        raise damaged("It holds no latents.")
    if DENOISED in shapes and shapes[DENOISED] != shapes[KEY]:
        raise damaged("Its steps do not fit together.")
    n_images = shapes[KEY][-4]
    if request is not None and request.batch_size != n_images:
        raise damaged(f"It holds {n_images} images, and says that it holds {request.batch_size}.")
    stream.seek(0)
    length = int.from_bytes(stream.read(8), "little")
    try:
        header = json.loads(stream.read(min(length, MAX_HEADER)))
        entries = {name: header[name] for name in names}
    except (ValueError, KeyError, TypeError):  # it was another file a moment ago
        raise damaged("Its header cannot be read.") from None
    for name, entry in entries.items():
        _check_finite(stream, 8 + length, entry, name)
    return request


def check_shape(path: Path, request: Request, size: tuple[int, int]) -> None:
    """Raises UnsoundError where latents are not of a picture's proportions; `size` is (width, height) in pixels."""
    with open_tensors(path) as file:
        shape = tuple(file.get_slice(KEY).get_shape())
    height, width = shape[-3], shape[-2]
    if request.mask is None and request.expand is None and size[0] * height != size[1] * width:
        raise UnsoundError(
            "beside", f"Its latents are {width}x{height} cells, and the picture {size[0]}x{size[1]} pixels."
        )


def _check_finite(stream: BinaryIO, start: int, entry: dict[str, Any], name: str) -> None:
    kind = _FLOATS.get(entry["dtype"])
    if kind is None:
        raise damaged(f"Its {name} are {entry['dtype']}, not floats.")
    first, last = entry["data_offsets"]
    stream.seek(start + first)
    left = last - first
    if left != math.prod(entry["shape"]) * np.dtype(kind).itemsize:
        raise damaged(f"Its {name} have another length than their shape.")
    while left:
        block = stream.read(min(left, BLOCK))
        if not block:
            raise damaged("It ends inside its numbers.")
        if not np.isfinite(np.frombuffer(block, kind)).all():
            raise damaged(f"Its {name} have numbers that are none (NaN or infinity).")
        left -= len(block)
