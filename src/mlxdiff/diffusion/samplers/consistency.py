"""Samplers of consistency models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import mlx.core as mx

from ..step import Denoiser, Noise, Step


def lcm(
    denoise: Denoiser,
    latents: mx.array,
    sigmas: Sequence[float],
    noise: Noise,
    boundary: Callable[[float], tuple[float, float]] | None = None,
) -> Iterator[Step]:
    """Multistep consistency sampling (Luo et al. 2023, Algorithm 3): denoise fully, then add fresh noise.

    `boundary(sigma)` is (skip, out) of the condition f(x, 0) = x (`Schedule.boundary`): f = denoised * out + latents *
    skip. Without it, `denoise` is the consistency function itself.
    """
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(latents, sigma)
        if boundary is not None:
            skip, out = boundary(sigma)
            denoised = denoised * out + latents * skip
        latents = denoised
        if sigma_next > 0:
            latents = denoised + noise(sigma, sigma_next) * sigma_next
        yield Step(i, sigma_next, latents, denoised)
