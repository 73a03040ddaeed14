"""DPM-Solver-2, with and without fresh noise: the slope at the middle of a step, in log sigma, is that of the step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import mlx.core as mx

from ..step import Denoiser, Noise, Step
from .arithmetic import INFINITE, ancestral_split, churned, rescale_noise


def dpm2(
    denoise: Denoiser,
    latents: mx.array,
    sigmas: Sequence[float],
    noise: Noise,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """DPM-Solver-2 (Lu et al. 2022a, Algorithm 1, r = 1/2): two evaluations a step, one in the last. Second order."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        latents, level = churned(latents, sigma, len(sigmas) - 1, noise, s_churn, s_tmin, s_tmax, s_noise)
        latents, denoised = _midpoint_step(denoise, latents, level, sigma_next / level)
        yield Step(i, sigma_next, latents, denoised)


def dpm2_ancestral(
    denoise: Denoiser, latents: mx.array, sigmas: Sequence[float], noise: Noise, eta: float = 1.0, s_noise: float = 1.0
) -> Iterator[Step]:
    """`dpm2` with the noise of ancestral sampling (k-diffusion): the middle is that of the way to the lower level."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        ratio, up = ancestral_split(sigma, sigma_next, eta)
        latents, denoised = _midpoint_step(denoise, latents, sigma, ratio)
        if up > 0:
            latents = latents + noise(sigma, sigma_next) * (up * s_noise)
        yield Step(i, sigma_next, latents, denoised)


def _midpoint_step(denoise: Denoiser, latents: mx.array, sigma: float, ratio: float) -> tuple[mx.array, mx.array]:
    """From sigma to ratio * sigma: (latents, newest prediction). To 0, and from infinity, it is Euler's step."""
    denoised = denoise(latents, sigma)
    if ratio == 0 or sigma >= INFINITE:
        return rescale_noise(latents, denoised, ratio), denoised
    middle = sigma * math.sqrt(ratio)
    halfway = rescale_noise(latents, denoised, math.sqrt(ratio))
    denoised = denoise(halfway, middle)
    # latents + (halfway - denoised) / middle * (ratio - 1) * sigma
    return latents - (halfway - denoised) * ((1 - ratio) / math.sqrt(ratio)), denoised
