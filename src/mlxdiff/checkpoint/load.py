"""Weights into a module, strictly: every parameter gets its array, and every array has its place.

What is read is described by `StoredWeights`; what happens to it is a list of checkpoint.transform. The arrays stay
lazy, so that nothing is read before the module is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..errors import CheckpointError, UnsupportedError
from ..files import open_regular
from ..weight_changes import Delta, Live, Survival
from . import transform
from .detect import weight_files
from .header import FLOATS, INTEGERS, Header, TensorInfo, read_header
from .rename import UNCHANGED, Rename, is_ignored
from .stored import Quantization, read_quantization
from .transform import Transformation

Module = TypeVar("Module", bound=nn.Module)

# Types of which mx.load takes a whole file; it refuses one with any other.
_MAPPED = {*FLOATS, *INTEGERS} - {"F64"}
_IN_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "U32": "<u4"}


@dataclass(frozen=True)
class StoredWeights:
    """The lazy arrays of one network as a checkpoint stores them, by its own keys and in torch's layout.

    source        what to call the file or folder in errors
    quantization  how they are quantized, for a stored copy of quantized weights
    """

    arrays: Mapping[str, mx.array]
    source: str
    quantization: Quantization | None = None


def read_component(folder: Path, variant: str | None = None) -> StoredWeights:
    """The weights in a component's folder. Raises CheckpointError, or UnsupportedError for pickles."""
    quantization = read_quantization(folder)
    files = weight_files(folder, variant)
    headers = {path: read_header(path) for path in files.paths}
    if files.index is not None:
        _check_index(folder, files.index, headers)
    packed = set() if quantization is None else {f"{layer}.weight" for layer in quantization.layers}
    arrays: dict[str, mx.array] = {}
    for path, header in headers.items():
        arrays |= read_arrays(path, header, header.tensors, packed)
    source = folder if files.index is not None or quantization is not None else files.paths[0]
    return StoredWeights(arrays, str(source), quantization)


def steps(
    stored: StoredWeights,
    *,
    dtype: mx.Dtype | None,
    table: Rename = UNCHANGED,
    optional: Collection[str] = (),
    bits: int | None = None,
    delta: Delta | None = None,
    live: Live | None = None,
    survival: Survival | None = None,
) -> list[Transformation]:
    """How stored weights get into a module.

    dtype     what floats are cast to; with None they stay as they are stored
    table     one of checkpoint.rename
    optional  parameters that may be missing; they keep the module's initial values
    bits      quantizes the linear layers; a stored quantized copy says itself how it is
    delta     changes that are merged into the weights, before they are quantized
    live      changes that are applied beside them
    survival  gets what is left of changes that are merged into quantized layers

    Raises RequestError where a stored copy has other bits than `bits`.
    """
    chosen: list[Transformation] = []
    if stored.quantization is not None:
        stored.quantization.check_asked(stored.source, bits)
        chosen.append(transform.stored_layers(stored.quantization, stored.source))
        bits = None
    chosen += [transform.rename(table, stored.source), transform.fit(stored.source, optional)]
    merged = transform.Merged()
    if delta is not None:
        chosen.append(transform.merge(delta, merged))
    chosen.append(transform.place())
    if bits is not None:
        chosen.append(transform.quantize(bits))
    if delta is not None and survival is not None:
        chosen.append(transform.measure(merged, survival))
    if dtype is not None:
        chosen.append(transform.cast(dtype))
    if live is not None:
        chosen.append(transform.attach(live))
    return chosen


class LoadedNetwork(Generic[Module]):
    """A module and how it was loaded, so that its adapters can be changed later.

    build   makes the module with its initial, unevaluated values
    read    maps its weights anew; what was read before is not kept
    finish  transformations at the end, such as `fuse`
    """

    def __init__(
        self,
        build: Callable[[], Module],
        read: Callable[[], StoredWeights],
        *,
        dtype: mx.Dtype | None,
        table: Rename = UNCHANGED,
        bits: int | None = None,
        finish: Sequence[Transformation] = (),
    ) -> None:
        self._build, self._read, self._finish = build, read, finish
        self._dtype, self._table, self._bits = dtype, table, bits
        self._changed: set[str] = set()
        self.module, _ = self._make(None, None, {})

    def reload(self, *, delta: Delta | None = None, live: Live | None = None) -> Survival:
        """The checkpoint's weights with these changes, in place of those before; with neither, the checkpoint's bits.

        Only layers that differ are read again. Nothing is evaluated. Returns what is left of changes that are merged
        into quantized layers.
        """
        survival: Survival = {}
        if delta is None and live is None and not self._changed:
            return survival
        fresh, changed = self._make(delta, live, survival)
        for path in sorted(self._changed | changed):
            while transform.at(self.module, path) is None or transform.at(fresh, path) is None:
                path = path.rpartition(".")[0]  # fused in one of them: then all that it is fused with
            replacement = transform.at(fresh, path)
            assert replacement is not None
            transform.put(self.module, path, replacement)
        self._changed = changed
        return survival

    def _make(self, delta: Delta | None, live: Live | None, survival: Survival) -> tuple[Module, set[str]]:
        """The module with these changes, and the paths of the layers that have any."""
        changed: set[str] = set()

        def noted_delta(path: str, weight: mx.array) -> mx.array | None:
            added = None if delta is None else delta(path, weight)
            if added is not None:
                changed.add(path.rpartition(".")[0])
            return added

        def noted_live(path: str, layer: nn.Module) -> nn.Module | None:
            replacement = None if live is None else live(path, layer)
            if replacement is not None:
                changed.add(path)
            return replacement

        module, stored = self._build(), self._read()
        chosen = steps(
            stored,
            dtype=self._dtype,
            table=self._table,
            bits=self._bits,
            delta=None if delta is None else noted_delta,
            live=None if live is None else noted_live,
            survival=survival,
        )
        transform.apply([*chosen, *self._finish], module, dict(stored.arrays))
        return module, changed


def load_component(
    module: Module,
    folder: Path,
    *,
    variant: str | None = None,
    dtype: mx.Dtype | None,
    rename: Rename = UNCHANGED,
    optional: Collection[str] = (),
    bits: int | None = None,
) -> Module:
    """Fills the module with the weights of a component's folder, lazily, and returns it; see `steps`.

    Raises CheckpointError, which names the first key that is missing, unexpected or misshapen, or UnsupportedError for
    pickles.
    """
    stored = read_component(folder, variant)
    chosen = steps(stored, dtype=dtype, table=rename, optional=optional, bits=bits)
    transform.apply(chosen, module, dict(stored.arrays))
    return module


def read_arrays(path: Path, header: Header, keys: Iterable[str], packed: Collection[str] = ()) -> dict[str, mx.array]:
    """The weights under these keys of a safetensors file, lazy; buffers that a module can work out are left out.

    A file in which any tensor has a type that MLX does not read is not lazy: these weights are read now, and float64
    becomes fp32. Raises CheckpointError for a weight that is stored as integers, except the keys in `packed`, and
    UnsupportedError for any other type than FLOATS.
    """
    wanted = [key for key in keys if not (is_ignored(key) and header.tensors[key].dtype not in FLOATS)]
    for key in wanted:
        _check_type(path, key, header.tensors[key].dtype, packed)
    if all(info.dtype in _MAPPED for info in header.tensors.values()):
        tensors = map_tensors(path)
        return {key: tensors[key] for key in wanted}
    with open_regular(path) as file:
        return {key: _read(file, header.tensors[key]) for key in wanted}


def map_tensors(path: Path) -> dict[str, mx.array]:
    """The lazy arrays of a safetensors file whose header `read_header` has passed."""
    try:
        tensors = mx.load(str(path), format="safetensors")
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"MLX cannot map {path} ({error}).", "Download it again.") from None
    assert isinstance(tensors, dict)
    return tensors


def _read(file: BinaryIO, info: TensorInfo) -> mx.array:
    """One tensor, read now."""
    kind = np.dtype(_IN_NUMPY[info.dtype])
    file.seek(info.start)
    values = np.frombuffer(file.read(math.prod(info.shape) * kind.itemsize), kind).reshape(info.shape)
    if info.dtype == "BF16":
        return mx.array(values).view(mx.bfloat16)
    with np.errstate(over="ignore"):  # what fp32 cannot hold becomes infinite, as in torch
        return mx.array(values.astype(np.float32) if info.dtype == "F64" else values)


def _check_type(path: Path, key: str, dtype: str, packed: Collection[str]) -> None:
    if dtype in FLOATS or (key in packed and dtype == "U32"):
        return
    if dtype in INTEGERS:
        raise CheckpointError(
            f"{path} stores {key!r} as integers ({dtype}).",
            f"Use a checkpoint stored as {', '.join(FLOATS)}; mlxdiff quantizes it itself.",
        )
    raise UnsupportedError(
        f"{path} stores {key!r} as {dtype}, which mlxdiff does not read.",
        f"Use a checkpoint stored as {', '.join(FLOATS)}.",
    )


def _check_index(folder: Path, index: Mapping[str, str], headers: Mapping[Path, Header]) -> None:
    """The shards hold what their index says that they hold, no less and no more."""
    for path, header in headers.items():
        listed = {key for key, name in index.items() if name == path.name}
        if listed != header.tensors.keys():
            key = min(listed ^ header.tensors.keys())
            where = "lacks" if key in listed else "also holds"
            raise CheckpointError(
                f"{path} {where} {key!r}, against the index beside it.", f"Download the files of {folder} again."
            )
