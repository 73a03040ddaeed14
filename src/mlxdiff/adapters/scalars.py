"""Single numbers of a safetensors file (alpha, scale), read at once: as floats, whatever type they are stored in."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

import numpy as np

from ..checkpoint.header import Header, TensorInfo
from ..errors import CheckpointError
from ..files import open_regular

_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "BOOL": "?",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
}


def read_scalars(path: Path, header: Header, keys: Collection[str]) -> dict[str, float]:
    """The one number in each of these tensors. Raises CheckpointError for a tensor of more, or of another type."""
    numbers = {}
    with open_regular(path) as file:
        for key in keys:
            info = header.tensors[key]
            if math.prod(info.shape) != 1 or info.dtype not in _TYPES:
                raise CheckpointError(
                    f"{path} has {key!r} as {info.dtype} in the shape {list(info.shape)}, where one number belongs.",
                    "The file is damaged: download it again.",
                )
            file.seek(info.start)
            numbers[key] = _number(file.read(np.dtype(_TYPES[info.dtype]).itemsize), info)
    return numbers


def _number(raw: bytes, info: TensorInfo) -> float:
    value = np.frombuffer(raw, _TYPES[info.dtype])
    if info.dtype == "BF16":  # the upper half of an fp32
        value = (value.astype(np.uint32) << 16).view(np.float32)
    return float(value[0])
