"""Weights of a torch module into an MLX module whose parameters carry the same names."""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
import mlx.nn as nn
import torch
from mlx.utils import tree_flatten

from mlxdiff.checkpoint.transform import at
from mlxdiff.kernels.packing import unpacked
from mlxdiff.models.layers import PACKED, PointwiseConv2d


def parameter_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Every parameter's path and shape, in MLX's layout; nothing is evaluated."""
    return {name: tuple(array.shape) for name, array in unpacked_parameters(module).items()}


def unpacked_parameters(module: nn.Module) -> dict[str, mx.array]:
    """Every parameter by its path, those that a CPU's products read in an order of their own as they were before."""
    found = {}
    for path, array in tree_flatten(module.parameters()):
        layer, _, name = path.rpartition(".")
        if name == PACKED:
            path, array = f"{layer}.weight", unpacked(array)
            if isinstance(at(module, layer), PointwiseConv2d):
                array = array[:, None, None]
        found[path] = array
    return found


def mlx_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A torch weight's shape in MLX's layout: convolutions OIHW -> OHWI."""
    return (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else tuple(shape)


def load_state_dict(module: nn.Module, state_dict: Mapping[str, torch.Tensor]) -> nn.Module:
    """Copies `state_dict` into `module` and returns it; a key missing, unexpected or misshapen raises ValueError."""
    ours = parameter_shapes(module)
    theirs = {name: mlx_shape(tuple(tensor.shape)) for name, tensor in state_dict.items()}
    if ours != theirs:
        missing, unexpected = sorted(ours.keys() - theirs.keys()), sorted(theirs.keys() - ours.keys())
        misshapen = {n: (ours[n], theirs[n]) for n in sorted(ours.keys() & theirs.keys()) if ours[n] != theirs[n]}
        raise ValueError(f"missing {missing}; unexpected {unexpected}; misshapen (ours, theirs) {misshapen}")
    weights = []
    for name, tensor in state_dict.items():
        tensor = tensor.detach()
        tensor = tensor.movedim(1, -1) if tensor.ndim == 4 else tensor
        weights.append((name, mx.array(tensor.contiguous().numpy())))
    module.load_weights(weights)
    return module
