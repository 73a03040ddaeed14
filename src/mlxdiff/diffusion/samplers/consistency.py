"""Samplers of consistency models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import mlx.core as mx
import numpy as np

from ..step import Denoiser, Noise, Step
from .arithmetic import rescale_noise, with_noise


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


def tcd(
    denoise: Denoiser,
    latents: mx.array,
    sigmas: Sequence[float],
    noise: Noise,
    timesteps: Sequence[float] | None = None,
    level: Callable[[float], float] | None = None,
    eta: float = 0.3,
) -> Iterator[Step]:
    """Strategic stochastic sampling of trajectory consistency models (Zheng et al. 2024, Algorithm 4).

    Each step goes below the next level, and noise leads back up to it. eta (gamma in the paper): 0 goes to the next
    level itself, 1 to the cleanest. timesteps, level: `Schedule`'s; without them the lower level is (1 - eta) times.
    """
    n = len(sigmas) - 1
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(latents, sigma)
        low = sigma_next
        if i < n - 1:
            low = sigma_next * (1 - eta)
            if timesteps is not None and level is not None:  # in fp32, whose rounding decides what floor gives
                low = level(float(np.floor(np.float32(timesteps[i + 1]) * np.float32(1 - eta))))
        latents = rescale_noise(latents, denoised, low / sigma)
        if eta > 0:
            up = math.sqrt(max(0.0, sigma_next * sigma_next - low * low))
            latents = with_noise(latents, noise, sigma, sigma_next, up)
        yield Step(i, sigma_next, latents, denoised)
