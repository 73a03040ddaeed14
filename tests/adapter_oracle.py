"""What adapters do to weights, in mlxdiff and in the programs that write them: whole models, weight by weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch

from mlxdiff.adapters import Shapes, match, read_adapter

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")

State = dict[str, dict[str, np.ndarray]]
"""component -> parameter -> its value, in torch's layout."""


def networks(pipe: Any) -> dict[str, torch.nn.Module]:
    """The networks of a pipeline that adapters change."""
    return {name: pipe.components[name] for name in COMPONENTS if pipe.components.get(name) is not None}


def path_of(name: str) -> str:
    """A parameter as mlxdiff names it."""
    return name.removeprefix("text_model.")


def state_of(pipe: Any) -> State:
    """A copy of all weights."""
    return {
        component: {path_of(name): value.detach().numpy().copy() for name, value in module.named_parameters()}
        for component, module in networks(pipe).items()
    }


def shapes_of(state: State) -> Shapes:
    """In MLX's layout."""
    return {
        component: {name: mlx(value).shape for name, value in values.items()} for component, values in state.items()
    }


def mlx(value: np.ndarray) -> np.ndarray:
    return value.transpose(0, 2, 3, 1) if value.ndim == 4 else value


def merged(path: Path, before: State, strength: float = 1.0) -> State:
    """The weights `before` with the adapter of a file, as mlxdiff reads it."""
    changes = match(read_adapter(path), shapes_of(before))
    after = {component: dict(values) for component, values in before.items()}
    for component, by_path in changes.items():
        for name, change in by_path.items():
            weight = mx.array(np.ascontiguousarray(mlx(before[component][name])))
            added = np.array(change.delta(weight, strength))
            assert added.shape == weight.shape
            if added.ndim == 4:
                added = added.transpose(0, 3, 1, 2)
            after[component][name] = before[component][name] + added
    return after


def check_low_ranks(path: Path, before: State) -> int:
    """Every change of low rank is the product of its halves; how many there are."""
    count = 0
    for component, by_path in match(read_adapter(path), shapes_of(before)).items():
        for name, change in by_path.items():
            halves = change.low_rank()
            if halves is None:
                continue
            count += 1
            down, up = (np.array(half).reshape(half.shape[0], -1) for half in halves)
            whole = np.array(change.delta(mx.zeros(change.shape), 1.0)).reshape(up.shape[0], -1)
            assert np.abs(up @ down - whole).max() < 1e-5 * np.abs(whole).max(), (component, name)
    return count


def worst(ours: State, theirs: State, before: State) -> tuple[float, int]:
    """The largest relative error of a change, and how many weights changed. What they leave, we have to leave."""
    largest, changed = 0.0, 0
    for component, values in theirs.items():
        for name, value in values.items():
            if name not in before[component]:
                continue
            size = np.abs(value - before[component][name]).max()
            error = np.abs(ours[component][name] - value).max()
            if size == 0:
                assert error == 0, (component, name)
                continue
            changed += 1
            largest = max(largest, float(error / np.abs(value).max()))
    return largest, changed


def randomize(
    parameters: Iterator[tuple[str, torch.nn.Parameter]], wanted: Callable[[str], bool], seed: int = 0
) -> None:
    """Random values for the adapter's parameters, which begin as a change of nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in parameters:
            if wanted(name):
                value.copy_(torch.randn(value.shape, generator=generator) * 0.3)


def layers_of(pipe: Any) -> Iterator[tuple[str, str, torch.nn.Module]]:
    """(component, name as transformers and diffusers have it, layer) of every linear layer and convolution."""
    for component, module in networks(pipe).items():
        for name, layer in module.named_modules():
            if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
                yield component, name, layer


def changes_on_top(before: State, added: Mapping[tuple[str, str], np.ndarray]) -> State:
    """The weights with differences by (component, parameter)."""
    after = {component: dict(values) for component, values in before.items()}
    for (component, name), value in added.items():
        after[component][name] = before[component][name] + value
    return after
