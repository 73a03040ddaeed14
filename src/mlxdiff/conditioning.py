"""What a network gets besides the latents: the encoded prompts, and for SDXL what goes with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from .errors import InputError


@dataclass(frozen=True)
class Conditioning:
    """The conditioning of B rows of a batch.

    context   (B, S, D) encoded prompts, for cross-attention
    pooled    (B, P) pooled prompts, for SDXL; None where the network takes none
    time_ids  (B, n) sizes and crops in pixels, for SDXL; None where the network takes none
    """

    context: mx.array
    pooled: mx.array | None = None
    time_ids: mx.array | None = None

    def arrays(self) -> list[mx.array]:
        """Those of the three that are set."""
        return [array for array in (self.context, self.pooled, self.time_ids) if array is not None]


def concatenate(parts: Sequence[Conditioning]) -> Conditioning:
    """Joins conditionings along the batch. Raises InputError unless their shapes are equal except B."""
    if not parts:
        raise InputError("There is no conditioning to concatenate.", "Give at least one.")
    if len(parts) == 1:
        return parts[0]
    joined = [_joined([getattr(part, name) for part in parts], name) for name in ("context", "pooled", "time_ids")]
    assert joined[0] is not None
    return Conditioning(joined[0], *joined[1:])


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
