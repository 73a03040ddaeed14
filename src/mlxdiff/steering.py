"""What pictures add to a run, besides the prompt: each a condition of the one loop.

An inpainting or editing checkpoint takes more channels; ControlNets and T2I-Adapters add residuals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import mlx.core as mx

from .conditioning import Conditioning
from .models.backbone import Residuals


class Steer(Protocol):
    """A network beside the backbone: prepared once for each group of conditionings, then called with the backbone."""

    def is_active(self, sigma: float) -> bool:
        """Whether it adds anything at this noise level."""
        ...

    def prepare(self, branches: Sequence[tuple[str, int]], conditioning: Conditioning) -> Any:
        """What (branch, rows) in the order of the batch, and their conditioning, alone decide."""
        ...

    def __call__(self, latents: mx.array, timestep: float, prepared: Any) -> Residuals:
        """What it adds for scaled latents (B, h, w, C), each (B or 1, h, w, C); unevaluated."""
        ...


@dataclass(frozen=True, eq=False)
class Steering:
    """What a run's pictures add to every call of the backbone.

    channels  by the name of a branch: (B, h, w, c) that go behind the scaled latents, in the backbone's own scale
    controls  networks whose residuals add up; they see the latents alone, without these channels
    """

    channels: Mapping[str, mx.array] = field(default_factory=dict)
    controls: Sequence[Steer] = ()


NOTHING = Steering()
