"""What the denoising loop asks of a network, whatever its architecture: prepare once a run, then call at each step.

    prepared = backbone.prepare(conditioning, timesteps, guidance_scale=7.5)
    output = backbone(latents, timestep, prepared, Extra(token_merging=0.5))

The loop does not look inside `prepared`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import mlx.core as mx
import mlx.nn as nn

from ..conditioning import Conditioning
from ..errors import RequestError
from ..weight_changes import Delta, Live, Survival
from .step_cache import StepCache


class Residuals(NamedTuple):
    """Feature maps that other networks add to a UNet's, each (B or 1, h, w, C).

    down     added to the skip connections, in the order in which the way down makes them (ControlNet)
    mid      added to what the mid block gives (ControlNet)
    adapter  added inside the levels on the way down, the finest first, and last to the mid block (T2I-Adapter)

    These are diffusers' down_block_additional_residuals, mid_block_additional_residual and
    down_intrablock_additional_residuals.
    """

    down: Sequence[mx.array] = ()
    mid: mx.array | None = None
    adapter: Sequence[mx.array] = ()


NO_RESIDUALS = Residuals()


def total(given: Sequence[Residuals]) -> Residuals:
    """The sum of what several networks add. Raises RequestError where they have different numbers of feature maps."""
    found = NO_RESIDUALS
    for each in given:
        mids = [mid for mid in (found.mid, each.mid) if mid is not None]
        found = Residuals(
            _sum(found.down, each.down), sum(mids[1:], mids[0]) if mids else None, _sum(found.adapter, each.adapter)
        )
    return found


def _sum(ours: Sequence[mx.array], theirs: Sequence[mx.array]) -> Sequence[mx.array]:
    if not ours or not theirs:
        return ours or theirs
    if len(ours) != len(theirs):
        raise RequestError(
            f"Two controls give {len(ours)} and {len(theirs)} feature maps.", "Use controls for one family of models."
        )
    return [a + b for a, b in zip(ours, theirs, strict=True)]


@dataclass(frozen=True)
class Extra:
    """What else takes part in a call.

    residuals      of ControlNets and T2I-Adapters
    token_merging  fraction (0 to 0.75) of similar tokens merged before self-attention
    step_cache     the deep features of one run; None computes them in each call
    perturbed      how many rows, the last ones, are perturbed: at the bottom each cell attends to itself alone (PAG)
    """

    residuals: Residuals = NO_RESIDUALS
    token_merging: float = 0.0
    step_cache: StepCache | None = None
    perturbed: int = 0


class BackboneConfig(Protocol):
    """What can be known of a backbone before its weights are loaded."""

    @property
    def in_channels(self) -> int: ...

    @property
    def out_channels(self) -> int: ...

    @property
    def latent_size(self) -> tuple[int, int]:
        """Default height and width in latent cells."""
        ...

    @property
    def uses_guidance_embedding(self) -> bool:
        """Whether the guidance scale is an input of the network (LCM), so that guidance needs no second branch."""
        ...

    @property
    def merges_tokens(self) -> bool:
        """Whether there is attention in which tokens can merge."""
        ...

    @property
    def can_be_perturbed(self) -> bool:
        """Whether there is attention that `Extra.perturbed` changes."""
        ...

    def bytes_per_row(self, cells: int, itemsize: int, *, fused_attention: bool) -> int:
        """Bytes that one more row of a batch needs in a call, about, for latents of so many cells."""
        ...


class Backbone(Protocol):
    """A denoiser: a UNet or a transformer."""

    @property
    def config(self) -> BackboneConfig: ...

    @property
    def network(self) -> nn.Module:
        """The module that holds the weights."""
        ...

    @property
    def dtype(self) -> mx.Dtype:
        """The weights' dtype, in which the output is."""
        ...

    @property
    def weights_nbytes(self) -> int:
        """Bytes of the weights."""
        ...

    def prepare(self, conditioning: Conditioning, timesteps: Sequence[float], *, guidance_scale: float) -> Any:
        """What the conditioning (B rows) and the timesteps alone decide, unevaluated: computed once for all steps.

        `guidance_scale` counts only where the config says `uses_guidance_embedding`. Raises CheckpointError where the
        conditioning does not fit the network.
        """
        ...

    def __call__(self, latents: mx.array, timestep: float, prepared: Any, extra: Extra = ...) -> mx.array:
        """The output for scaled latents (B, h, w, in_channels) of any dtype: (B, h, w, out_channels), unevaluated.

        A timestep that was not among the prepared ones is computed now, and kept in `prepared`.
        """
        ...

    def reload(self, *, delta: Delta | None = None, live: Live | None = None) -> Survival:
        """Changes the adapters: the checkpoint's weights with these changes, in place of those before.

        `delta` is added to the weights in fp32; `live` puts layers in others' place. With neither the weights have the
        checkpoint's bits again. What was prepared before must be prepared again. Returns what is left of changes that
        are merged into quantized layers.
        """
        ...
