"""LoRA (Hu et al. 2021) and LoCon: a product of two matrices, or of two convolutions with a third between them."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from ..change import Shape
from ..read import Layer
from .misfit import Broken, Misfit, check_size


@dataclass(frozen=True)
class LowRankForm:
    """scale * up @ down: down (r, in * kh * kw), up (out, r), both as they are stored."""

    down: mx.array
    up: mx.array
    scale: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def delta(self, weight: mx.array) -> mx.array:
        del weight
        return self.scale * (self.up.astype(mx.float32) @ self.down.astype(mx.float32))

    def low_rank(self) -> tuple[mx.array, mx.array]:
        return self.down.astype(mx.float32) * self.scale, self.up.astype(mx.float32)


class TuckerForm(LowRankForm):
    """LoCon's with a core between: every row of down mixes all that the core has, so none of them stands alone."""


@dataclass(frozen=True)
class BiasOfUp:
    """scale * the bias of the layer `up`, for the bias (out,)."""

    bias: mx.array
    scale: float
    rank: None = None

    def delta(self, weight: mx.array) -> mx.array:
        del weight
        return self.scale * self.bias.astype(mx.float32)

    def low_rank(self) -> None:
        return None


@dataclass(frozen=True)
class LowRankTable:
    """(scale * up @ down) transposed, for a table of embeddings (n, D): down (r, n), up (D, r)."""

    down: mx.array
    up: mx.array
    scale: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def delta(self, weight: mx.array) -> mx.array:
        del weight
        return self.scale * (self.down.astype(mx.float32).T @ self.up.astype(mx.float32).T)

    def low_rank(self) -> None:  # a table is looked up: nothing runs beside it
        return None


def table(layer: Layer, shape: Shape) -> LowRankTable:
    """PEFT's LoRA for a table of embeddings of `shape` (n, D)."""
    up, down = layer.parts.get("embedding_up"), layer.parts.get("embedding_down")
    if up is None or down is None:
        raise Broken("has half a LoRA, and not lora_embedding_A and lora_embedding_B")
    if up.ndim != 2 or down.ndim != 2 or (down.shape[1], up.shape[0]) != shape:
        raise Misfit(f"has a LoRA of {tuple(down.shape)} and {tuple(up.shape)}, where the model has {shape}")
    if up.shape[1] != down.shape[0]:
        raise Broken(f"has a LoRA whose ranks differ: {tuple(down.shape)} and {tuple(up.shape)}")
    return LowRankTable(down, up, layer.scale(down.shape[0]))


def low_rank(layer: Layer, shape: Shape) -> LowRankForm:
    """LoRA for a linear layer or a convolution of `shape` (torch's layout); `mid` is LoCon's Tucker core.

    down (r, in), up (out, r); for a convolution down (r, in, kh, kw), up (out, r, 1, 1); with mid (r, r, kh, kw) both
    are 1x1.
    """
    parts = layer.parts
    if "up" not in parts or "down" not in parts:
        raise Broken("has half a LoRA, and not lora_up and lora_down")
    up, down, mid = parts["up"], parts["down"], parts.get("mid")
    if up.ndim not in (2, 4) or down.ndim not in (2, 4) or tuple(up.shape[2:]) not in ((), (1, 1)):
        raise Misfit(f"has a LoRA of {tuple(down.shape)} and {tuple(up.shape)}, where the model has {shape}")
    rank = down.shape[0]
    if up.shape[1] != rank:
        raise Broken(f"has a LoRA whose ranks differ: {tuple(down.shape)} and {tuple(up.shape)}")
    whole: Shape = (up.shape[0], *down.shape[1:])
    if mid is not None:
        if mid.ndim != 4 or tuple(mid.shape[:2]) != (rank, rank) or tuple(down.shape[2:]) not in ((), (1, 1)):
            raise Broken(f"has a LoRA whose lora_mid is {tuple(mid.shape)} at rank {rank}")
        whole = (up.shape[0], down.shape[1], *mid.shape[2:])
        down = mx.einsum("nmkl,mj->njkl", mid.astype(mx.float32), down.reshape(rank, -1).astype(mx.float32))
    check_size(whole, shape)
    form = LowRankForm if mid is None else TuckerForm
    return form(down.reshape(rank, -1), up.reshape(-1, rank), layer.scale(rank))
