"""Changes of which the weight itself is a factor: GLoRA (Chavan et al. 2023) and OFT (Qiu et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from ..change import Shape
from ..read import Layer
from .misfit import Broken, Misfit, check_size

_LARGEST = 1e3  # of a skew matrix; a turn by 180 degrees in fp32 is there long before, and then no inverse is found


@dataclass(frozen=True)
class General:
    """GLoRA: scale * (W a1 a2 + b1 b2), with a1 (in, r), a2 (r, in), b1 (out, r), b2 (r, in * kh * kw)."""

    a1: mx.array
    a2: mx.array
    b1: mx.array
    b2: mx.array
    scale: float

    @property
    def rank(self) -> int:
        return self.a2.shape[0]

    def delta(self, weight: mx.array) -> mx.array:
        a1, a2, b1, b2 = (x.reshape(x.shape[0], -1).astype(mx.float32) for x in (self.a1, self.a2, self.b1, self.b2))
        inner = weight.reshape(*weight.shape[:2], -1)
        turned = mx.einsum("oik,ij->ojk", mx.einsum("oik,ir->ork", inner, a1), a2)
        return self.scale * (turned.reshape(weight.shape) + (b1 @ b2).reshape(weight.shape))

    def low_rank(self) -> None:
        return None


@dataclass(frozen=True)
class Orthogonal:
    """OFT: blocks of the rows, each turned by the orthogonal matrix (Cayley) of a skew one.

    blocks      (n, b, b), with out = n * b
    rescale     (out, 1, ...), or None
    constraint  the longest that the skew matrices together may be; 0 for any length
    """

    blocks: mx.array
    rescale: mx.array | None
    constraint: float
    rank: None = None

    def delta(self, weight: mx.array) -> mx.array:
        blocks = self.blocks.astype(mx.float32)
        skew = blocks - blocks.transpose(0, 2, 1)
        if self.constraint > 0:
            length = mx.sqrt(mx.sum(mx.square(skew))) + 1e-8
            skew = mx.where(length > self.constraint, skew * (self.constraint / length), skew)
        eye = mx.eye(blocks.shape[1])
        # MLX inverts on the CPU alone.
        turn = (eye + skew) @ mx.linalg.inv(eye - skew, stream=mx.cpu)
        rows = weight.reshape(*blocks.shape[:2], -1)
        turned = mx.einsum("knm,kni->kmi", turn, rows).reshape(weight.shape)
        if self.rescale is not None:
            turned = turned * self.rescale.astype(mx.float32)
        return turned - weight

    def low_rank(self) -> None:
        return None


def general(layer: Layer, shape: Shape) -> General:
    """GLoRA for a parameter of `shape` (torch's layout)."""
    names = ("a1", "a2", "b1", "b2")
    if "bm" in layer.parts or not all(f"glora_{name}" in layer.parts for name in names):
        raise Broken("has a GLoRA of another kind than a1, a2, b1 and b2")
    a1, a2, b1, b2 = (layer.parts[f"glora_{name}"] for name in names)
    if any(array.ndim < 2 for array in (a1, a2, b1, b2)) or len(shape) < 2:
        raise Misfit("has a GLoRA of no matrices")
    rank = a2.shape[0]
    given = (b1.shape[0], *b2.shape[1:])
    check_size(given, shape, "has a GLoRA of")
    sizes = (a1.size, a2.size, b1.size)
    if (a1.shape[0], b2.shape[0]) != (shape[1], rank) or sizes != (shape[1] * rank, rank * shape[1], shape[0] * rank):
        raise Misfit(f"has a GLoRA of {tuple(a1.shape)} and {tuple(a2.shape)}, where the model has {shape}")
    return General(a1, a2, b1, b2, layer.scale(rank))


def orthogonal(layer: Layer, shape: Shape) -> Orthogonal:
    """OFT for a parameter of `shape` (torch's layout), whose alpha is the constraint for one row."""
    blocks = layer.parts.get("oft_blocks")
    if blocks is None:
        raise Broken("has half an OFT")
    if blocks.ndim != 3 or blocks.shape[1] != blocks.shape[2] or len(shape) < 2:
        raise Misfit(f"has an OFT of {tuple(blocks.shape)}")
    if blocks.shape[0] * blocks.shape[1] != shape[0]:
        raise Misfit(f"has an OFT of {blocks.shape[0] * blocks.shape[1]} rows, where the model has {shape}")
    if (mx.abs(blocks).max() > _LARGEST).item():
        raise Broken(f"has an OFT of numbers above {_LARGEST:g}")
    rescale = layer.parts.get("oft_rescale")
    if rescale is not None:
        if rescale.size != shape[0]:
            raise Misfit(f"has an OFT that rescales {rescale.size} rows, where the model has {shape}")
        rescale = rescale.reshape(-1, *(1,) * (len(shape) - 1))
    return Orthogonal(blocks, rescale, layer.numbers.get("alpha", 0.0) * shape[0])
