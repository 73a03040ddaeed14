"""A change beside the parameter that it is for."""

from __future__ import annotations

import math

import mlx.core as mx

from ..change import Shape


class Misfit(Exception):
    """A layer does not fit its module; the text goes behind the layer's name."""


class Broken(Misfit):
    """A layer that fits no module."""


def fit(array: mx.array, shape: Shape) -> mx.array:
    """The array as a parameter of this shape; a linear layer and a 1x1 convolution stand in for each other."""
    if _bare(tuple(array.shape)) != _bare(shape):
        raise Misfit(f"has the shape {tuple(array.shape)}, where the model has {shape}")
    return array.reshape(shape)


def check_size(given: Shape, shape: Shape, what: str = "has the shape") -> None:
    """Raises Misfit unless a change of shape (out, in) or (out, in, kh, kw) is one of a parameter of `shape`."""
    if _bare(given) != _bare(shape) and not (
        len(given) == 2 and given[0] == shape[0] and given[1] == math.prod(shape[1:]) and len(shape) > 1
    ):
        raise Misfit(f"{what} {given}, where the model has {shape}")


def _bare(shape: Shape) -> Shape:
    return shape[:2] if shape[2:] == (1, 1) else shape
