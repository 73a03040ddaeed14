"""What a sampler is handed, and what it yields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

Denoiser = Callable[[mx.array, float], mx.array]
"""(latents, sigma) -> denoised: the predicted x0, both (B, h, w, C) fp32, in variance-exploding form."""


class BranchedDenoiser(Protocol):
    """A denoiser that also gives the branches it was made of, for samplers in CFG++ form (`guidance.guided`)."""

    def __call__(self, latents: mx.array, sigma: float) -> mx.array: ...

    def branches(self, latents: mx.array, sigma: float) -> tuple[mx.array, dict[str, mx.array]]:
        """The guided prediction and every branch's own, by name, from one call of the network."""
        ...


Noise = Callable[[float, float], mx.array]
"""(sigma, sigma_next) -> unit noise in the shape of the latents, (B, h, w, C) fp32, for a step between these levels.

Fresh noise is an independent draw and ignores the levels. Brownian noise is the increment of one path between the
levels over the square root of its variance, so that the same path is followed by any number of steps.
"""


@dataclass(frozen=True)
class Step:
    """One step of a run, not evaluated.

    index      0 to n - 1
    sigma      the noise level of `latents`: 0 after the last step, or what the schedule ends with
    latents    (B, h, w, C) fp32 after the step
    denoised   the newest prediction of x0, for previews
    """

    index: int
    sigma: float
    latents: mx.array
    denoised: mx.array
