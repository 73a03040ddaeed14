"""Weights of a torch module into an MLX module whose parameters carry the same names."""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
import mlx.nn as nn
import torch
from mlx.utils import tree_flatten


def parameter_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Every parameter's path and shape, in MLX's layout; nothing is evaluated."""
    return {name: tuple(array.shape) for name, array in tree_flatten(module.parameters())}


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
