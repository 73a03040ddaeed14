"""LoHa and LoKr (LyCORIS, Yeh et al. 2024): products of products, element by element and of Kronecker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx

from ..change import Shape
from ..read import Layer
from .misfit import Broken, Misfit, check_size


@dataclass(frozen=True)
class Factor:
    """A matrix or a kernel that is stored whole, as a product a @ b, or with a Tucker core between.

    a, b, core  (m, r), (r, n...); with a core (r, r, kh, kw) they are (r, m), (r, n)
    """

    whole: mx.array | None = None
    a: mx.array | None = None
    b: mx.array | None = None
    core: mx.array | None = None

    @property
    def rank(self) -> int | None:
        return None if self.b is None else self.b.shape[0]

    @property
    def shape(self) -> Shape:
        if self.whole is not None:
            return tuple(self.whole.shape)
        assert self.a is not None
        assert self.b is not None
        if self.core is not None:
            return (self.a.shape[1], self.b.shape[1], *self.core.shape[2:])
        return (self.a.shape[0], *self.b.shape[1:])

    def halves(self) -> tuple[mx.array, mx.array] | None:
        """(m, r) and (r, n...) in fp32, of which it is the product; None for one that is stored whole."""
        if self.a is None or self.b is None:
            return None
        a, b = self.a.astype(mx.float32), self.b.astype(mx.float32)
        if self.core is None:
            return a, b.reshape(b.shape[0], -1)
        right = mx.einsum("ijkl,jq->iqkl", self.core.astype(mx.float32), b)
        return a.T, right.reshape(a.shape[0], -1)

    def value(self) -> mx.array:
        """In fp32, of `shape`."""
        if self.whole is not None:
            return self.whole.astype(mx.float32)
        halves = self.halves()
        assert halves is not None
        left, right = halves
        return (left @ right).reshape(self.shape)


@dataclass(frozen=True)
class Hadamard:
    """LoHa: scale * first * second, element by element."""

    first: Factor
    second: Factor
    scale: float

    @property
    def rank(self) -> int | None:
        return self.first.rank

    def delta(self, weight: mx.array) -> mx.array:
        del weight
        return self.scale * (self.first.value() * self.second.value())

    def low_rank(self) -> tuple[mx.array, mx.array] | None:
        """Of rank r * r: each column of one with each of the other. None where that is not low."""
        first, second = self.first.halves(), self.second.halves()
        assert first is not None
        assert second is not None
        (a1, b1), (a2, b2) = first, second
        rank = a1.shape[1] * a2.shape[1]
        if rank >= min(a1.shape[0], b1.shape[1]):
            return None
        up = (a1[:, :, None] * a2[:, None, :]).reshape(-1, rank)
        down = (b1[:, None, :] * b2[None, :, :]).reshape(rank, -1)
        return down * self.scale, up


@dataclass(frozen=True)
class Kronecker:
    """LoKr: scale * the Kronecker product of a small matrix (a, b) and a larger one (c, d) or kernel (c, d, kh, kw)."""

    first: Factor
    second: Factor
    kernel: Shape
    scale: float

    @property
    def rank(self) -> int | None:
        return self.second.rank if self.second.rank is not None else self.first.rank

    def delta(self, weight: mx.array) -> mx.array:
        del weight
        rows = self.first.shape[0] * self.second.shape[0]
        # Channels are in front of the kernel, so that it takes no part in the product.
        second = self.second.value().reshape(self.second.shape[0], -1)
        return self.scale * _kron(self.first.value(), second).reshape(rows, -1, *self.kernel)

    def low_rank(self) -> tuple[mx.array, mx.array] | None:
        """Of the rank of the second factor times the shorter side of the first; None where that is not low."""
        halves = self.second.halves()
        if halves is None:
            return None
        (a, b), (left, right) = self.first.shape, halves
        if min(a, b) * left.shape[1] >= min(a * left.shape[0], b * right.shape[1]):
            return None
        first = self.first.value()
        if a <= b:
            up, down = _kron(mx.eye(a), left), _kron(first, right)
        else:
            up, down = _kron(first, left), _kron(mx.eye(b), right)
        return down * self.scale, up


def _kron(first: mx.array, second: mx.array) -> mx.array:
    """The Kronecker product of two matrices."""
    (a, b), (c, d) = first.shape, second.shape
    return (first[:, None, :, None] * second[None, :, None, :]).reshape(a * c, b * d)


def hadamard(layer: Layer, shape: Shape) -> Hadamard:
    """LoHa for a parameter of `shape` (torch's layout): w*_a (out, r), w*_b (r, in * kh * kw), or with cores."""
    first, second = (_factor(layer.parts, f"hada_w{n}", f"hada_t{n}") for n in (1, 2))
    for factor in (first, second):
        check_size(factor.shape, shape, "has a LoHa of")
    assert first.rank is not None
    return Hadamard(first, second, layer.scale(first.rank))


def kronecker(layer: Layer, shape: Shape) -> Kronecker:
    """LoKr for a parameter of `shape` (torch's layout): w1 (a, b) and w2 (c, d, ...), with out = ac and in = bd."""
    first, second = _factor(layer.parts, "lokr_w1"), _factor(layer.parts, "lokr_w2", "lokr_t2")
    kernel = shape[2:]
    if len(first.shape) != 2 or len(second.shape) < 2 or len(shape) < 2:
        raise Misfit(f"has a LoKr of {first.shape} and {second.shape}, where the model has {shape}")
    whole: Shape = (first.shape[0] * second.shape[0], first.shape[1] * second.shape[1], *second.shape[2:])
    check_size(whole, shape, "has a LoKr of")
    ranks = [factor.rank for factor in (second, first) if factor.rank is not None]
    # With nothing decomposed there is no rank, and alpha means nothing; PEFT has its own rule, in `scale`.
    scale = layer.scale(ranks[0]) if ranks else layer.numbers.get("scale", 1.0)
    return Kronecker(first, second, kernel, scale)


def _factor(parts: Mapping[str, mx.array], name: str, core_name: str = "") -> Factor:
    """`name` whole, or `name`_a and `name`_b with or without a core. Raises Misfit where they are not one factor."""
    whole, a, b, core = (parts.get(key) for key in (name, f"{name}_a", f"{name}_b", core_name))
    if whole is not None:
        if a is not None or b is not None or core is not None:
            raise Broken(f"has both {name} and its halves")
        return Factor(whole)
    if a is None or b is None:
        raise Broken(f"has only a part of {name}")
    if core is None:
        if a.ndim != 2 or b.ndim < 2 or a.shape[1] != b.shape[0]:
            raise Broken(f"has {name} of {tuple(a.shape)} and {tuple(b.shape)}")
    elif a.ndim != 2 or b.ndim != 2 or core.ndim != 4 or tuple(core.shape[:2]) != (a.shape[0], b.shape[0]):
        raise Broken(f"has {name} of {tuple(a.shape)}, {tuple(core.shape)} and {tuple(b.shape)}")
    return Factor(None, a, b, core)
