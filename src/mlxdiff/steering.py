"""What pictures add to a run, besides the prompt: each a condition of the one loop.

An inpainting or editing checkpoint takes more channels; ControlNets and T2I-Adapters add residuals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import mlx.core as mx


@dataclass(frozen=True, eq=False)
class Steering:
    """What a run's pictures add to every call of the backbone.

    channels  by the name of a branch: (B, h, w, c) that go behind the scaled latents, in the backbone's own scale
    """

    channels: Mapping[str, mx.array] = field(default_factory=dict)


NOTHING = Steering()
