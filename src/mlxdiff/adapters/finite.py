"""Whether every number of a file is one: read once, some at a time, and not kept."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import mlx.core as mx

from ..checkpoint.header import FLOATS, read_header
from ..checkpoint.load import read_arrays
from ..errors import CheckpointError

_AT_ONCE = 2**28  # bytes that are checked together


def check_finite(path: Path) -> None:
    """Raises CheckpointError for a file with NaN or infinity. It is read once for as long as it stays the same."""
    try:
        about = os.stat(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}).", "Check its name.") from None
    bad = _first_bad(path, about.st_size, about.st_mtime_ns, about.st_ino)
    if bad is not None:
        raise CheckpointError(f"{path} holds NaN or infinity in {bad[:120]!r}.", "Download it again.")


@lru_cache(maxsize=256)
def _first_bad(path: Path, *_: int) -> str | None:
    """The first key with a number that is none. The arrays are mapped anew: those that were checked would stay."""
    header = read_header(path)
    arrays = read_arrays(path, header, [key for key, info in header.tensors.items() if info.dtype in FLOATS])
    waiting: dict[str, mx.array] = {}
    size = 0
    while arrays:
        key = next(iter(arrays))
        array = arrays.pop(key)
        waiting[key] = mx.isfinite(array).all()
        size += array.nbytes
        if size >= _AT_ONCE or not arrays:
            mx.eval(waiting)
            bad = next((key for key, is_finite in waiting.items() if not is_finite.item()), None)
            if bad is not None:
                return bad
            waiting, size = {}, 0
    return None
