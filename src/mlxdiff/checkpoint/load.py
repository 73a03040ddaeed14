"""Weights into a module, strictly: every parameter gets its array, and every array has its place.

Checks come first, on headers alone; the arrays stay lazy, so that nothing is read before the module is used.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from ..errors import CheckpointError
from .detect import weight_files
from .header import FLOATS, Header, read_header
from .quantize import quantize, quantized_layers
from .rename import UNCHANGED, Rename, is_ignored, rename_key
from .stored import read_quantization

Module = TypeVar("Module", bound=nn.Module)


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
    """Fills the module with the safetensors weights of a component's folder, lazily, and returns it.

    Weights stored as fp16, bf16 or fp32 are cast to `dtype`; with None they stay. `rename` is a table of
    checkpoint.rename. `optional` lists parameter paths that the files may lack; those keep the module's initial values.
    `bits` quantizes the linear layers; a stored quantized copy says itself how it is. Raises CheckpointError, which
    names the first key that is missing, unexpected or misshapen, or UnsupportedError for pickles.
    """
    stored = read_quantization(folder)
    if stored is not None:
        stored.check_asked(folder, bits)
        quantize(module, stored.bits, stored.group_size)
        stored.check_layers(folder, quantized_layers(module))
        bits = None
    files = weight_files(folder, variant)
    headers = {path: read_header(path) for path in files.paths}
    if files.index is not None:
        _check_index(folder, files.index, headers)
    packed = set() if stored is None else {f"{layer}.weight" for layer in stored.layers}
    weights = {}
    for path, header in headers.items():
        tensors = map_tensors(path)
        weights |= {key: tensors[key] for key, info in header.tensors.items() if info.dtype in FLOATS or key in packed}
        check_integers(path, header, packed)
    source = str(files.paths[0] if len(files.paths) == 1 else folder)
    return fill(module, weights, source=source, dtype=dtype, rename=rename, optional=optional, bits=bits)


def read_tensors(path: Path) -> dict[str, mx.array]:
    """The arrays of one safetensors file, lazy and in the file's own layout; CheckpointError for a damaged file."""
    read_header(path)
    return map_tensors(path)


def map_tensors(path: Path) -> dict[str, mx.array]:
    """The lazy arrays of a safetensors file whose header `read_header` has passed."""
    try:
        tensors = mx.load(str(path), format="safetensors")
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"MLX cannot map {path} ({error}).", "Download it again.") from None
    assert isinstance(tensors, dict)
    return tensors


def fill(
    module: Module,
    weights: Mapping[str, mx.array],
    *,
    source: str,
    dtype: mx.Dtype | None,
    rename: Rename = UNCHANGED,
    optional: Collection[str] = (),
    bits: int | None = None,
) -> Module:
    """Puts arrays in torch's layout (by a checkpoint's keys) into the module; `source` names them in errors.

    Convolutions go from OIHW to OHWI; a 1x1 convolution and a linear layer stand in for each other. `bits` quantizes
    the weights as they are stored, before they are cast, so that a stored copy serves every dtype exactly. Raises
    CheckpointError, as `load_component` does.
    """
    initial: dict[str, mx.array] = dict(tree_flatten(module.parameters()))
    parameters = {path: tuple(array.shape) for path, array in initial.items()}
    found: dict[str, mx.array] = {}
    for key, array in weights.items():
        path = rename_key(key, rename)
        if path in found:
            raise CheckpointError(f"{source} holds {path!r} under two names.", "Use a checkpoint with one of them.")
        if path in parameters or not is_ignored(path):
            found[path] = array
    missing = sorted(parameters.keys() - found.keys() - set(optional))
    if missing:
        raise _misfit(source, f"lacks the weight {missing[0]!r}", missing)
    unexpected = sorted(found.keys() - parameters.keys())
    if unexpected:
        raise _misfit(source, f"holds {unexpected[0]!r}, which the model has no place for", unexpected)
    fitted = {path: fit_shape(array, parameters[path]) for path, array in found.items()}
    misshapen = sorted(path for path, array in fitted.items() if array is None)
    if misshapen:
        first = misshapen[0]
        shapes = f"{tuple(found[first].shape)} where its config makes it {_torch_shape(parameters[first])}"
        raise _misfit(source, f"has {first!r} in the shape {shapes}", misshapen)
    mistyped = sorted(path for path, array in found.items() if _is_packed(array) != _is_packed(initial[path]))
    if mistyped:
        raise _misfit(source, f"has {mistyped[0]!r} in the type {found[mistyped[0]].dtype}", mistyped)
    weights = initial | {path: array for path, array in fitted.items() if array is not None}
    module.update(tree_unflatten(list(weights.items())))
    if bits is not None:
        quantize(module, bits)
    if dtype is not None:
        module.set_dtype(dtype)  # floats only: packed weights stay
    return module


def fit_shape(array: mx.array, shape: tuple[int, ...]) -> mx.array | None:
    """An array in torch's layout as a parameter of this shape (MLX's layout), or None where it does not fit."""
    if array.ndim == 4:
        # As it is read: a view would be copied at every use.
        array = mx.contiguous(array.transpose(0, 2, 3, 1))
    if tuple(array.shape) == shape:
        return array
    # Linear (O, I) beside convolution (O, 1, 1, I): checkpoints have stored the projections of attention as either.
    if {array.ndim, len(shape)} == {2, 4} and _as_linear(tuple(array.shape)) == _as_linear(shape) is not None:
        return array.reshape(shape)
    return None


def _is_packed(array: mx.array) -> bool:
    return array.dtype == mx.uint32


def _as_linear(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    if len(shape) == 2:
        return shape
    return (shape[0], shape[3]) if shape[1:3] == (1, 1) else None


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], shape[3], *shape[1:3]) if len(shape) == 4 else shape


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


def check_integers(path: Path, header: Header, packed: Collection[str]) -> None:
    """Raises CheckpointError where a weight is stored as integers, but for the keys in `packed`."""
    for key, info in header.tensors.items():
        if info.dtype not in FLOATS and not is_ignored(key) and key not in packed:
            raise CheckpointError(
                f"{path} stores {key!r} as integers ({info.dtype}).",
                f"Use a checkpoint stored as {', '.join(FLOATS)}; mlxdiff quantizes it itself.",
            )


def _misfit(source: str, problem: str, keys: Sequence[str]) -> CheckpointError:
    more = f" (and {len(keys) - 1} more such)" if len(keys) > 1 else ""
    return CheckpointError(
        f"{source} {problem}{more}.",
        "The weights belong to another config, or are incomplete: download the model again.",
    )
