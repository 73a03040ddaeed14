"""What an adapter does to one parameter, whatever its form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

Shape = tuple[int, ...]


class Form(Protocol):
    """The mathematics of one kind of change, at strength 1; arrays are in torch's layout, fp32."""

    @property
    def rank(self) -> int | None: ...

    def delta(self, weight: mx.array) -> mx.array:
        """What is added to `weight`, as many numbers as it has."""
        ...

    def low_rank(self) -> tuple[mx.array, mx.array] | None:
        """down (r, ...) and up (out, r) of which the change is the product, with its scale; None for other forms."""
        ...


@dataclass(frozen=True)
class Change:
    """A change of one parameter, of shape `shape` in MLX's layout (convolutions OHWI).

    form    how it is computed
    alpha   as the file has it; None where it has none
    factor  what every strength is multiplied by (blocks.py)
    """

    shape: Shape
    form: Form
    alpha: float | None = None
    factor: float = 1.0

    @property
    def rank(self) -> int | None:
        """How many directions it has; None where it is no product of smaller matrices."""
        return self.form.rank

    def delta(self, weight: mx.array, strength: float) -> mx.array:
        """What is added to `weight` (of `shape`, any float type): fp32, of `shape`. Lazy."""
        added = self.form.delta(_to_torch(weight.astype(mx.float32)))
        return _to_mlx(added.reshape(torch_shape(self.shape))) * (strength * self.factor)

    def low_rank(self) -> tuple[mx.array, mx.array] | None:
        """(down, up) in fp32, as models/live.py takes them, for strength 1; None for a change of another form.

        down  (r, in); for a convolution (r, kh, kw, in), already scaled
        up    (out, r); for a convolution (out, 1, 1, r)
        """
        found = None if len(self.shape) == 1 else self.form.low_rank()
        if found is None:
            return None
        down, up = found
        rank = down.shape[0]
        if len(self.shape) == 2:
            return down.reshape(rank, -1) * self.factor, up.reshape(-1, rank)
        down = down.reshape(rank, *torch_shape(self.shape)[1:])
        return _to_mlx(down) * self.factor, up.reshape(-1, 1, 1, rank)


def torch_shape(shape: Shape) -> Shape:
    """A shape of MLX's layout in torch's."""
    return (shape[0], shape[3], shape[1], shape[2]) if len(shape) == 4 else shape


def _to_torch(array: mx.array) -> mx.array:
    return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array


def _to_mlx(array: mx.array) -> mx.array:
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array
