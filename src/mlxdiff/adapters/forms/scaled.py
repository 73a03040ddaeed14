"""Changes that scale the weight itself: DoRA sets the length of its rows or columns, IA3 multiplies them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx

from ..change import Form, Shape
from ..read import Layer
from .misfit import Broken, Misfit


@dataclass(frozen=True)
class Decomposed:
    """DoRA (Liu et al. 2024): the changed weight V, each row or column of which gets the length in `magnitude`.

    inner      the change that makes V of the weight
    magnitude  (out, 1, ...) for rows, (1, in, 1, ...) for columns
    eps        what LyCORIS adds to the lengths of V
    """

    inner: Form
    magnitude: mx.array
    axis: int
    eps: float

    @property
    def rank(self) -> int | None:
        return self.inner.rank

    def delta(self, weight: mx.array) -> mx.array:
        changed = weight + self.inner.delta(weight).reshape(weight.shape)
        others = [axis for axis in range(weight.ndim) if axis != self.axis]
        lengths = mx.sqrt(mx.sum(mx.square(changed), axis=others, keepdims=True)) + self.eps
        # A row of zeros has no direction, and stays.
        lengths = mx.where(lengths == 0, 1, lengths)
        return changed * (self.magnitude.astype(mx.float32) / lengths) - weight

    def low_rank(self) -> None:
        return None


@dataclass(frozen=True)
class Multiplied:
    """IA3 (Liu et al. 2022): each row or column of the weight, or each number of the bias, times a factor.

    factor  broadcasts to the parameter
    offset  what is added to it: 0 where the file has the factor less 1
    """

    factor: mx.array
    offset: float = 0.0
    rank: None = None

    def delta(self, weight: mx.array) -> mx.array:
        return weight * (self.factor.astype(mx.float32) + self.offset)

    def low_rank(self) -> None:
        return None


def decomposed(layer: Layer, inner: Form, shape: Shape) -> Decomposed:
    """The DoRA of a change `inner` of a parameter of `shape` (torch's layout)."""
    if len(shape) < 2:
        raise Misfit(f"has a DoRA, where the model has {shape}")
    rest = (1,) * (len(shape) - 2)
    if "row_magnitude" in layer.parts:  # PEFT's: as long as there are rows, in any shape
        magnitude = layer.parts["row_magnitude"]
        if magnitude.size != shape[0]:
            raise Misfit(f"has a DoRA of {magnitude.size} rows, where the model has {shape}")
        return Decomposed(inner, magnitude.reshape(-1, 1, *rest), 0, 0.0)
    magnitude = layer.parts["magnitude"]
    given = tuple(magnitude.shape)
    bare = given[:2] if given[2:] == (1,) * (len(given) - 2) else given
    # As LyCORIS: float32's epsilon.
    if bare in ((shape[0], 1), (shape[0],)):
        return Decomposed(inner, magnitude.reshape(-1, 1, *rest), 0, 2.0**-23)
    if bare == (1, shape[1]):
        return Decomposed(inner, magnitude.reshape(1, -1, *rest), 1, 2.0**-23)
    raise Misfit(f"has a DoRA of {given}, where the model has {shape}")


def multiplied(layer: Layer, shapes: Mapping[str, Shape]) -> dict[str, Multiplied]:
    """IA3 by the parameter that it multiplies.

    `weight` with `on_input` is LyCORIS's form, whose numbers are factors less 1; `factor` is PEFT's, which multiplies
    a layer's output, and so its bias too.
    """
    if "weight" not in shapes or len(shapes["weight"]) < 2:
        raise Misfit("has an IA3, where the model has no matrix")
    shape = shapes["weight"]
    ones = (1,) * (len(shape) - 2)
    is_peft = "factor" in layer.parts
    given = layer.parts.get("factor" if is_peft else "weight")
    if given is None:
        raise Broken("has an IA3 without factors")
    if "on_input" in layer.numbers:
        on_input = layer.numbers["on_input"] != 0
    elif given.ndim == 4 and shape[0] == shape[1]:
        raise Broken(
            "has an IA3 that multiplies its input or its output: adapter_config.json beside the file says which"
        )
    else:  # PEFT's linear layers say it by their shape, its convolutions by their size
        on_input = tuple(given.shape) == (1, shape[1]) or (given.ndim == 4 and given.size != shape[0])
    if given.size != (shape[1] if on_input else shape[0]):
        raise Misfit(f"has an IA3 of {given.size} factors, where the model has {shape}")
    offset = -1.0 if is_peft else 0.0
    by_axis = (1, -1) if on_input else (-1, 1)
    found = {"weight": Multiplied(given.reshape(*by_axis, *ones), offset)}
    if is_peft and not on_input and "bias" in shapes:
        found["bias"] = Multiplied(given.reshape(-1), offset)
    return found
