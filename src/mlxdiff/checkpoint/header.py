"""The header of a safetensors file, checked before anything maps the file; needs no MLX.

The format: eight bytes that give the header's length (little-endian), the header (JSON: name -> dtype, shape,
data_offsets), then the data. MLX has believed headers that lie; the safetensors package checks the offsets against the
file, and what it lets pass (a key that stands twice, sizes past 31 bits) is checked here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..errors import CheckpointError, UnsupportedError
from ..files import mistaken_for, open_regular

# Far above what any model has (SDXL: 0.3 MB, 2,515 tensors), and read in half a second.
MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 20_000
MAX_DIMENSION = 2**31 - 1

FLOATS = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}
"""Storage types that weights may have, with their size in bytes. MLX reads all but the last."""

INTEGERS = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1}
"""Types that MLX reads too; no weight has one, but buffers such as position_ids do."""

# torch.save writes a zip, and wrote a bare pickle before version 1.6.
_ZIP, _PICKLE, _PROTOCOLS = b"PK\x03\x04", b"\x80", (b"\x02", b"\x03", b"\x04", b"\x05")

_REMEDY = "The file is damaged or was not downloaded whole: download it again."


@dataclass(frozen=True)
class TensorInfo:
    """One entry: storage type as the format spells it (`F16`), and shape in the file's own layout.

    start  where its data begins, in bytes from the beginning of the file
    """

    dtype: str
    shape: tuple[int, ...]
    start: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Header:
    """What a safetensors file says that it holds, by key, and its free-form metadata."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """Reads and checks the header of a safetensors file, without reading its data.

    Raises CheckpointError for a file that is missing, cut short or not what its header says, and UnsupportedError for a
    pickle. Storage types are the reader's concern.
    """
    try:
        raw = _header_bytes(path)
        # Counted before anything is made of it: a header of many entries takes far more memory than bytes.
        if raw.count(b'"data_offsets"') > MAX_TENSORS:
            raise ValueError(f"it lists more than {MAX_TENSORS} tensors")
        entries = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
        # The package maps the file: only once its length is known to be right.
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}).", _REMEDY) from None
    except (SafetensorError, ValueError, RecursionError) as error:
        _refuse_what_it_is(path)
        detail = str(error).removeprefix("Error while deserializing header: ")[:200]
        raise CheckpointError(f"{path} is not a sound safetensors file ({detail!r}).", _REMEDY) from None
    tensors = {
        name: _tensor(path, name, entry, 8 + len(raw)) for name, entry in entries.items() if name != "__metadata__"
    }
    return Header(tensors, {} if metadata is None else metadata)


def refuse_pickle(path: Path) -> None:
    """Raises UnsupportedError for a file that starts as a pickle does, whatever it is called: nothing unpickles it."""
    with open_regular(path) as file:
        start = file.read(9)
    # A header's length may begin like a pickle, but then its brace stands at the ninth byte.
    if start.startswith(_ZIP) or (start[:1] == _PICKLE and start[1:2] in _PROTOCOLS and start[8:] != b"{"):
        raise UnsupportedError(
            f"{path} is a pickle under another name, which could run any code when it is opened.",
            "Get the model's safetensors from where it was published; a pickle that you trust can be converted with "
            "diffusers' save_pretrained(..., safe_serialization=True).",
        )


def _header_bytes(path: Path) -> bytes:
    with open_regular(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        prefix = file.read(8)
        if len(prefix) < 8:
            raise ValueError("the file is empty" if size == 0 else "the file ends before its header")
        (length,) = struct.unpack("<Q", prefix)
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"its header would be {length} bytes long; up to {MAX_HEADER_BYTES} are read")
        if length > size - 8:
            raise ValueError("the file ends within its header")
        return file.read(length)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"{twice[:80]!r} stands twice in its header")
    return entries


def _refuse_what_it_is(path: Path) -> None:
    """Raises the error that names what an unsound file is, where its beginning tells."""
    refuse_pickle(path)
    with open_regular(path) as file:
        what = mistaken_for(file.read(512))
    if what is not None:
        raise CheckpointError(f"{path} is {what}, not safetensors.", "Download the file itself.")


def _tensor(path: Path, name: str, entry: Mapping[str, Any], data: int) -> TensorInfo:
    dtype, shape, start = entry["dtype"], tuple(entry["shape"]), data + entry["data_offsets"][0]
    if any(size > MAX_DIMENSION for size in shape):
        raise CheckpointError(f"{path} gives {name!r} the impossible shape {list(shape)}.", _REMEDY)
    return TensorInfo(dtype, shape, start)
