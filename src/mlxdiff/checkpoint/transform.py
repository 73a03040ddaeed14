"""Loading as a list of named transformations over (module, weights), applied in order.

    stored layers -> rename -> fit -> merge -> place -> quantize -> measure -> cast -> attach -> fuse -> pack

Up to `place` they change the weights, behind it the module that holds them. Nothing is evaluated. Checks come before
`place`: a module that is refused keeps its values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from ..errors import CheckpointError
from ..weight_changes import Delta, Live, Survival
from .quantize import quantize as quantize_layers
from .quantize import quantized_layers
from .rename import Rename, is_ignored, rename_key
from .stored import Quantization

Weights = dict[str, mx.array]

# Written by torch.compile, DataParallel and trainers that save a module inside another.
_WRAPPERS = re.compile(r"^((model|_orig_mod|module)\.)+|(?<=\.)(_orig_mod|module)\.")


class Transformation(NamedTuple):
    """`apply(module, weights)` returns the weights that the next one gets, and may change the module."""

    name: str
    apply: Callable[[nn.Module, Weights], Weights]


def apply(transformations: Sequence[Transformation], module: nn.Module, weights: Weights) -> None:
    """Runs all of them."""
    for transformation in transformations:
        weights = transformation.apply(module, weights)


def stored_layers(quantization: Quantization, source: str) -> Transformation:
    """Makes room for weights that are stored quantized. Raises CheckpointError where other layers are than recorded."""

    def change(module: nn.Module, weights: Weights) -> Weights:
        quantize_layers(module, quantization.bits, quantization.group_size)
        quantization.check_layers(source, quantized_layers(module))
        return weights

    return Transformation("stored layers", change)


def rename(table: Rename, source: str) -> Transformation:
    """A checkpoint's keys to parameter paths; what a wrapper put before a key goes where that gives one.

    Raises CheckpointError for two keys that mean the same parameter.
    """

    def change(module: nn.Module, weights: Weights) -> Weights:
        parameters = _parameters(module)
        renamed: Weights = {}
        for key, array in weights.items():
            path = rename_key(key, table)
            if path not in parameters and (inner := rename_key(_WRAPPERS.sub("", key), table)) in parameters:
                path = inner
            if path in renamed:
                raise CheckpointError(f"{source} holds {path!r} under two names.", "Use a checkpoint with one of them.")
            if path in parameters or not is_ignored(path):
                renamed[path] = array
        return renamed

    return Transformation("rename", change)


def fit(source: str, optional: Collection[str] = ()) -> Transformation:
    """Strictly one array for each parameter, in MLX's layout: convolutions go from OIHW to OHWI.

    A 1x1 convolution and a linear layer stand in for each other. `optional` parameters keep their initial values where
    they are missing. Raises CheckpointError, which names the first that is missing, unexpected or misshapen.
    """

    def change(module: nn.Module, weights: Weights) -> Weights:
        initial = _parameters(module)
        shapes = {path: tuple(array.shape) for path, array in initial.items()}
        missing = sorted(shapes.keys() - weights.keys() - set(optional))
        if missing:
            raise _misfit(source, f"lacks the weight {missing[0]!r}", missing)
        unexpected = sorted(weights.keys() - shapes.keys())
        if unexpected:
            raise _misfit(source, f"holds {unexpected[0]!r}, which the model has no place for", unexpected)
        fitted = {path: fit_shape(array, shapes[path]) for path, array in weights.items()}
        misshapen = sorted(path for path, array in fitted.items() if array is None)
        if misshapen:
            first = misshapen[0]
            both = f"{tuple(weights[first].shape)} where its config makes it {_torch_shape(shapes[first])}"
            raise _misfit(source, f"has {first!r} in the shape {both}", misshapen)
        mistyped = sorted(path for path, array in weights.items() if _is_packed(array) != _is_packed(initial[path]))
        if mistyped:
            raise _misfit(source, f"has {mistyped[0]!r} in the type {weights[mistyped[0]].dtype}", mistyped)
        return initial | {path: array for path, array in fitted.items() if array is not None}

    return Transformation("fit", change)


@dataclass
class Merged:
    """What `merge` did, for `measure`: path of a weight -> (the weight in fp32, what was added to it)."""

    by_path: dict[str, tuple[mx.array, mx.array]] = field(default_factory=dict)


def merge(delta: Delta, merged: Merged) -> Transformation:
    """Adds to each parameter what `delta` says, in fp32; a stored quantized layer is unpacked and packed again.

    Raises CheckpointError where a change has another shape than its parameter.
    """

    def change(module: nn.Module, weights: Weights) -> Weights:
        changed = dict(weights)
        for path, array in weights.items():
            layer = path.removesuffix(".weight")
            whole = _unpacked(at(module, layer), layer, weights) if _is_packed(array) else array.astype(mx.float32)
            added = delta(path, whole)
            if added is None:
                continue
            added = _checked(path, whole, added)
            merged.by_path[path] = whole, added
            if _is_packed(array):
                changed |= _packed(at(module, layer), layer, whole + added)
            else:
                changed[path] = whole + added
        return changed

    return Transformation("merge", change)


def measure(merged: Merged, survival: Survival) -> Transformation:
    """Puts into `survival` what is left of the changes that were merged into layers that are quantized now."""

    def change(module: nn.Module) -> None:
        for path, (whole, added) in merged.by_path.items():
            layer = at(module, path.removesuffix(".weight"))
            if not isinstance(layer, nn.QuantizedLinear):
                continue
            packed, scales, biases = mx.quantize(whole, group_size=layer.group_size, bits=layer.bits)
            before = _dequantized(packed, scales, biases, layer)
            there = _dequantized(layer["weight"], layer["scales"], layer["biases"], layer) - before
            survival[path] = mx.stack([(there * added).sum(), (there * there).sum(), (added * added).sum()])

    return _of_module("measure", change)


def place() -> Transformation:
    """Puts the weights into the module."""

    def change(module: nn.Module, weights: Weights) -> Weights:
        module.update(tree_unflatten(list(weights.items())))
        return weights

    return Transformation("place", change)


def quantize(bits: int) -> Transformation:
    """Linear layers to 8 or 4 bits, of the weights as they are stored: so that a stored copy serves every dtype."""
    return _of_module("quantize", lambda module: quantize_layers(module, bits))


def cast(dtype: mx.Dtype) -> Transformation:
    """Floats to `dtype`; packed weights stay."""
    return _of_module("cast", lambda module: module.set_dtype(dtype))


def attach(live: Live) -> Transformation:
    """Puts another layer in place of each for which `live` gives one: changes that are applied and not merged."""

    def change(module: nn.Module) -> None:
        layers = [(path, layer) for path, layer in module.named_modules() if "weight" in layer]
        for path, layer in layers:
            replacement = live(path, layer)
            if replacement is not None:
                put(module, path, replacement)

    return _of_module("attach", change)


def fuse() -> Transformation:
    """Joins layers that have the same input, by the module's own `fuse`."""

    def change(module: Any) -> None:
        module.fuse()

    return _of_module("fuse", change)


def pack() -> Transformation:
    """Prepares weights for the kernels of this device, by the module's own `pack`."""

    def change(module: Any) -> None:
        module.pack()

    return _of_module("pack", change)


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


def at(module: nn.Module, path: str) -> nn.Module | None:
    """The module inside `module` at a path such as `blocks.0.attn`, or None; the empty path is the module itself."""
    found: object = module
    for name in filter(None, path.split(".")):
        if isinstance(found, list):
            found = found[int(name)] if name.isdigit() and int(name) < len(found) else None
        else:
            found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, nn.Module) else None


def put(module: nn.Module, path: str, replacement: nn.Module) -> None:
    """Puts a module in the place of the one at a path."""
    *parents, name = path.split(".")
    parent: object = module
    for step in parents:
        parent = parent[int(step)] if isinstance(parent, list) else parent[step]  # pyright: ignore[reportIndexIssue]
    if isinstance(parent, list):
        parent[int(name)] = replacement
    else:
        parent[name] = replacement  # pyright: ignore[reportIndexIssue]


def _of_module(name: str, do: Callable[[nn.Module], object]) -> Transformation:
    def change(module: nn.Module, weights: Weights) -> Weights:
        do(module)
        return weights

    return Transformation(name, change)


def _unpacked(layer: nn.Module | None, path: str, weights: Weights) -> mx.array:
    """The weight of a stored quantized layer, in fp32."""
    packed, scales, biases = (weights[f"{path}.{name}"] for name in ("weight", "scales", "biases"))
    return _dequantized(packed, scales, biases, layer)


def _packed(layer: nn.Module | None, path: str, whole: mx.array) -> Weights:
    assert isinstance(layer, nn.QuantizedLinear)
    arrays = mx.quantize(whole, group_size=layer.group_size, bits=layer.bits)
    return dict(zip((f"{path}.{name}" for name in ("weight", "scales", "biases")), arrays, strict=True))


def _dequantized(packed: mx.array, scales: mx.array, biases: mx.array, layer: nn.Module | None) -> mx.array:
    assert isinstance(layer, nn.QuantizedLinear)
    size, bits = layer.group_size, layer.bits
    return mx.dequantize(packed, scales.astype(mx.float32), biases.astype(mx.float32), group_size=size, bits=bits)


def _checked(path: str, whole: mx.array, added: mx.array) -> mx.array:
    if whole.shape != added.shape:
        raise CheckpointError(
            f"An adapter changes {path!r} in the shape {tuple(added.shape)}, and the model has {tuple(whole.shape)}.",
            "Use an adapter that was made for this model.",
        )
    return added.astype(mx.float32)


def _parameters(module: nn.Module) -> Weights:
    return dict(tree_flatten(module.parameters()))  # pyright: ignore[reportReturnType]


def _is_packed(array: mx.array) -> bool:
    return array.dtype == mx.uint32


def _as_linear(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    if len(shape) == 2:
        return shape
    return (shape[0], shape[3]) if shape[1:3] == (1, 1) else None


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], shape[3], *shape[1:3]) if len(shape) == 4 else shape


def _misfit(source: str, problem: str, keys: Sequence[str]) -> CheckpointError:
    more = f" (and {len(keys) - 1} more such)" if len(keys) > 1 else ""
    return CheckpointError(
        f"{source} {problem}{more}.",
        "The weights belong to another config, or are incomplete: download the model again.",
    )
