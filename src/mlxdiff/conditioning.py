"""What a network gets besides the latents: the encoded prompts, and for SDXL what goes with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from .errors import InputError

Attend = Callable[[mx.array], list[list[tuple[mx.array, ...]]]]
"""(tokens (B, P, T, D)) -> for each attention of a network to the prompt, keys and values of pictures, (B, S, width)
each, with a mask behind them or not (models/transformer.py)."""


@dataclass(frozen=True, eq=False)
class PicturePrompt:
    """P pictures as a prompt of B rows: T tokens of each (B, P, T, D), and how a network attends to them."""

    tokens: mx.array
    attend: Attend


@dataclass(frozen=True)
class Conditioning:
    """The conditioning of B rows of a batch.

    context   (B, S, D) encoded prompts, for cross-attention
    pooled    (B, P) pooled prompts, for SDXL; None where the network takes none
    time_ids  (B, n) sizes and crops in pixels, for SDXL; None where the network takes none
    pictures  what is attended to beside the context (IP-Adapter)
    """

    context: mx.array
    pooled: mx.array | None = None
    time_ids: mx.array | None = None
    pictures: tuple[PicturePrompt, ...] = ()

    def arrays(self) -> list[mx.array]:
        """Those of the three that are set."""
        return [array for array in (self.context, self.pooled, self.time_ids) if array is not None]


@dataclass(frozen=True, eq=False)
class Strand:
    """What one branch of guidance is told about images that follow each other in a batch, during a run.

    images   their places in the batch
    entries  (last call, conditioning of a row an image), in order: what holds up to and with which call of the network
    """

    images: range
    entries: tuple[tuple[int, Conditioning], ...]

    def at(self, call: int) -> Conditioning:
        """What holds at the network's call number `call` (from 0); past the end the first, as in A1111."""
        return next((held for last, held in self.entries if call <= last), self.entries[0][1])


def constant(conditioning: Conditioning) -> tuple[Strand, ...]:
    """One strand: every row of a conditioning, during the whole run."""
    return (Strand(range(conditioning.context.shape[0]), ((0, conditioning),)),)


def concatenate(parts: Sequence[Conditioning]) -> Conditioning:
    """Joins conditionings along the batch. Raises InputError unless their shapes are equal except B."""
    if not parts:
        raise InputError("There is no conditioning to concatenate.", "Give at least one.")
    if len(parts) == 1:
        return parts[0]
    joined = [_joined([getattr(part, name) for part in parts], name) for name in ("context", "pooled", "time_ids")]
    assert joined[0] is not None
    return Conditioning(joined[0], joined[1], joined[2])


def _joined(arrays: list[mx.array | None], name: str) -> mx.array | None:
    given = [array for array in arrays if array is not None]
    if not given:
        return None
    shapes = {tuple(array.shape[1:]) for array in given}
    if len(given) != len(arrays) or len(shapes) > 1:
        raise InputError(
            f"The {name} of these conditionings differ in shape: {sorted(shapes)}.", "Run them in batches of their own."
        )
    return mx.concatenate(given)
