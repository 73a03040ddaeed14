"""Adapters put on the networks of a checkpoint: merged into weights in fp32, or run beside quantized ones.

A change of low rank runs beside a layer of 8 or 4 bits (models/live.py), which keeps all of it and leaves the bits
alone; every other change is merged into the weight. What is merged depends on nothing but the files' contents and
their scales, and without adapters every network has the checkpoint's bits again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from . import backend
from .adapters import Change, has_directions, limited, match, read_adapter, scaled
from .checkpoint.inversion import Inversion
from .checkpoint.quantize import quantize, quantized_layers
from .errors import MlxdiffWarning
from .families import Checkpoint, base
from .loras import Adapters, Weighted
from .models.layers import QuantizedLinear
from .models.live import ChangedQuantizedLinear
from .parts import BACKBONE
from .recent import Recent
from .weight_changes import Delta, Live, Survival

PARTS = {"backbone": (BACKBONE,), "encoder": ("text_encoder", "text_encoder_2")}
"""The components of each part that adapters change."""

MOST_KNOWN = 256  # adapters of which it is kept what they change

Reload = Callable[..., Survival]
Key = tuple[tuple[Any, ...], ...]
"""(content, strength, rank, blocks) of the adapters that change a part: equal keys, equal weights."""


@dataclass(frozen=True)
class Known:
    """What is kept of a file that was read. Its weights are read when they are needed.

    components      those that it changes
    inversions      its textual inversions
    has_directions  whether `rank` means anything to it
    """

    components: frozenset[str]
    inversions: tuple[Inversion, ...]
    has_directions: bool


@dataclass(frozen=True, eq=False)
class Term:
    """A change of one parameter at its strength."""

    change: Change
    strength: float

    def delta(self, weight: mx.array) -> mx.array:
        """What is added to a weight, in fp32."""
        return self.change.delta(weight, self.strength)

    def low_rank(self) -> tuple[mx.array, mx.array] | None:
        """down (r, ...) and up (out, r) with the strength, in fp32; None for a change of another form."""
        found = self.change.low_rank()
        if found is None:
            return None
        down, up = found
        return down * self.strength, up


Terms = Mapping[str, Sequence[Term]]
"""path of a parameter -> what changes it, in order."""


class Adapting:
    """What adapters do to one checkpoint. `bits`: of its quantized layers; None where there are none."""

    def __init__(self, checkpoint: Checkpoint, bits: int | None) -> None:
        self._checkpoint, self._bits = checkpoint, bits
        self._known: Recent[Known] = Recent(MOST_KNOWN)

    def check(self, adapters: Adapters) -> None:
        """Raises CheckpointError or UnsupportedError for a file that is damaged, or made for another model, and
        RequestError for a block that the model does not have. A rank that means nothing is said in an MlxdiffWarning.
        """
        for adapter in adapters:
            if not self._about(adapter).has_directions and adapter.rank is not None:
                said = (
                    f"{adapter.path.name} is no product of two matrices: rank={adapter.rank} leaves out nothing of it."
                )
                warnings.warn(MlxdiffWarning(said), stacklevel=2)
            scaled({}, self._shapes, dict(adapter.blocks))

    def key(self, part: str, adapters: Adapters) -> Key:
        """What decides the weights of `backbone` or `encoder`."""
        found = self._relevant(part, adapters)
        return tuple((each.digest, each.strength(part), each.rank, each.blocks) for each in found)

    def put_on(self, part: str, adapters: Adapters, reloads: Mapping[str, Reload]) -> Survival:
        """Changes the networks of a part, by their `reload`, to have these adapters and no others. Nothing is
        evaluated. Returns what is left of changes that were merged into quantized layers."""
        terms: dict[str, dict[str, list[Term]]] = {component: {} for component in reloads}
        for adapter in self._relevant(part, adapters):
            found = match(read_adapter(adapter.path), self._shapes)
            if adapter.rank is not None:
                found = limited(found, adapter.rank)
            if adapter.blocks:
                found = scaled(found, self._shapes, dict(adapter.blocks))
            for component, changes in found.items():
                for path, change in changes.items() if component in terms else ():
                    term = Term(change, adapter.strength(part))
                    terms[component].setdefault(path, []).append(term)
        survival: Survival = {}
        for component, reload in reloads.items():
            if terms[component]:
                changes = self._split(component, terms[component])
                left = reload(delta=_delta(changes.merged), live=_live(changes.beside) if changes.beside else None)
            else:
                left = reload()
            survival |= {f"{component}.{path}": value for path, value in left.items()}
        return survival

    def _relevant(self, part: str, adapters: Adapters) -> list[Weighted]:
        """Those that change the part at all."""
        return [
            adapter
            for adapter in adapters
            if adapter.strength(part) != 0 and self._about(adapter).components.intersection(PARTS[part])
        ]

    def inversions(self, adapters: Adapters) -> tuple[Inversion, ...]:
        """The textual inversions that the files bring along for prompts; one at scale 0 brings none."""
        return tuple(inversion for adapter in _heard(adapters) for inversion in self._about(adapter).inversions)

    def bringing(self, adapters: Adapters) -> tuple[str, ...]:
        """The contents of the files that bring textual inversions along: equal ones, the same words."""
        return tuple(adapter.digest for adapter in _heard(adapters) if self._about(adapter).inversions)

    def _about(self, adapter: Weighted) -> Known:
        def read() -> Known:
            found = read_adapter(adapter.path)
            changes = match(found, self._shapes)
            return Known(frozenset(changes), found.inversions, has_directions(changes))

        return self._known.get(adapter.digest, read)

    @cached_property
    def _layout(self) -> tuple[dict[str, dict[str, tuple[int, ...]]], dict[str, frozenset[str]]]:
        """Of each component: the shapes of its parameters, before layers are joined or quantized; which are."""
        shapes, quantized = {}, {}
        for name in (name for names in PARTS.values() for name in names):
            if name not in self._checkpoint.index.components:
                continue
            with backend.callers_randomness():
                module = base.build_network(self._checkpoint, name)
                arrays: dict[str, mx.array] = dict(tree_flatten(module.parameters()))
                shapes[name] = {path: tuple(array.shape) for path, array in arrays.items()}
                layers = [] if self._bits is None else quantized_layers(quantize(module, self._bits))
            quantized[name] = frozenset(f"{path}.weight" for path in layers)
        return shapes, quantized

    @property
    def _shapes(self) -> dict[str, dict[str, tuple[int, ...]]]:
        return self._layout[0]

    def _split(self, component: str, terms: Terms) -> Split:
        quantized = self._layout[1][component]
        merged: dict[str, list[Term]] = {}
        beside: dict[str, list[Term]] = {}
        for path, each in terms.items():
            for term in each:
                runs_beside = path in quantized and term.low_rank() is not None
                (beside if runs_beside else merged).setdefault(path, []).append(term)
        return Split(merged, beside)


@dataclass(frozen=True)
class Split:
    """What is merged into weights, and what runs beside them."""

    merged: Terms
    beside: Terms


def _heard(adapters: Adapters) -> list[Weighted]:
    return [adapter for adapter in adapters if adapter.scale != 0 or adapter.text != 0]


def _delta(terms: Terms) -> Delta:
    """Each change sees the weight with those before it, as in A1111 and ComfyUI: it matters to DoRA and IA3."""

    def delta(path: str, weight: mx.array) -> mx.array | None:
        added = None
        for term in terms.get(path, ()):
            one = term.delta(weight if added is None else weight + added)
            added = one if added is None else added + one
        return added

    return delta


def _live(terms: Terms) -> Live:
    def live(path: str, layer: nn.Module) -> nn.Module | None:
        found = terms.get(f"{path}.weight")
        if found is None:
            return None
        assert isinstance(layer, QuantizedLinear)
        pairs = [pair for term in found if (pair := term.low_rank()) is not None]
        down = mx.concatenate([down for down, _ in pairs])
        up = mx.concatenate([up for _, up in pairs], axis=1)
        dtype = layer["scales"].dtype
        down, up = _balanced(down, up)
        return ChangedQuantizedLinear(layer, down.astype(dtype), up.astype(dtype))

    return live


def _balanced(down: mx.array, up: mx.array) -> tuple[mx.array, mx.array]:
    """The same product of factors of like size for each direction: fp16 has few bits for what is very small."""
    sizes = mx.abs(down).max(axis=1), mx.abs(up).max(axis=0)
    ratio = mx.sqrt(sizes[1] / sizes[0])
    ratio = mx.where(mx.isfinite(ratio) & (ratio > 0), ratio, 1.0)
    return down * ratio[:, None], up / ratio


def left_of(survival: Survival) -> list[float]:
    """For each quantized layer the correlation of the change that is there with the one that was asked for."""
    found = []
    for value in survival.values():
        product, there, asked = np.array(value, np.float64)
        size = float(np.sqrt(there * asked))
        found.append(float(product) / size if size > 0 else 0.0)
    return found
