"""Euler's method, with and without fresh noise, DDIM, which is the same in these variables, and Heun's method."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import mlx.core as mx

from ..step import Denoiser, Noise, Step
from .arithmetic import INFINITE, ancestral_split, churned, read_as, rescale_noise


def euler(
    denoise: Denoiser,
    latents: mx.array,
    sigmas: Sequence[float],
    noise: Noise,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """Euler's method, and with churn the stochastic sampler (Karras et al. 2022, Algorithm 2). First order."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        latents, level = churned(latents, sigma, len(sigmas) - 1, noise, s_churn, s_tmin, s_tmax, s_noise)
        denoised = denoise(latents, level)
        latents = rescale_noise(latents, denoised, sigma_next / level)
        yield Step(i, sigma_next, latents, denoised)


def ddim(
    denoise: Denoiser,
    latents: mx.array,
    sigmas: Sequence[float],
    noise: Noise,
    arrivals: Sequence[float] | None = None,
    eta: float = 0.0,
) -> Iterator[Step]:
    """DDIM (Song et al. 2021, equations 12 and 16): in these variables Euler's method (their equation 14).

    `arrivals` (n levels) is where the steps land if not on sigmas[1:], see `Schedule.arrivals`.
    """
    arrivals = sigmas[1:] if arrivals is None else arrivals
    for i, (sigma, arrival, sigma_next) in enumerate(zip(sigmas, arrivals, sigmas[1:], strict=False)):
        denoised = denoise(latents, sigma)
        ratio, up = ancestral_split(sigma, arrival, eta)
        latents = rescale_noise(latents, denoised, ratio)
        if up > 0:
            latents = latents + noise(sigma, arrival) * up
        latents = read_as(latents, arrival, sigma_next)
        yield Step(i, sigma_next, latents, denoised)


def ddpm(denoise: Denoiser, latents: mx.array, sigmas: Sequence[float], noise: Noise) -> Iterator[Step]:
    """DDPM (Ho et al. 2020, Algorithm 2, the smaller variance), which is DDIM with eta = 1, between any levels."""
    return ddim(denoise, latents, sigmas, noise, eta=1.0)


def euler_ancestral(
    denoise: Denoiser, latents: mx.array, sigmas: Sequence[float], noise: Noise, eta: float = 1.0, s_noise: float = 1.0
) -> Iterator[Step]:
    """Euler's method with the noise of ancestral sampling (Song et al. 2021, score SDE, appendix F; k-diffusion)."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(latents, sigma)
        ratio, up = ancestral_split(sigma, sigma_next, eta)
        latents = rescale_noise(latents, denoised, ratio)
        if up > 0:
            latents = latents + noise(sigma, sigma_next) * (up * s_noise)
        yield Step(i, sigma_next, latents, denoised)


def heun(
    denoise: Denoiser,
    latents: mx.array,
    sigmas: Sequence[float],
    noise: Noise,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """Heun's method (Karras et al. 2022, Algorithms 1 and 2): two evaluations a step, one in the last. Second order."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        latents, level = churned(latents, sigma, len(sigmas) - 1, noise, s_churn, s_tmin, s_tmax, s_noise)
        latents, denoised = heun_step(denoise, latents, level, sigma_next)
        yield Step(i, sigma_next, latents, denoised)


def heun_step(denoise: Denoiser, latents: mx.array, sigma: float, sigma_next: float) -> tuple[mx.array, mx.array]:
    """(latents, newest prediction) at sigma_next. To 0, and from infinity, it is Euler's step."""
    denoised = denoise(latents, sigma)
    slope = (latents - denoised) / sigma
    latents = rescale_noise(latents, denoised, sigma_next / sigma)
    if sigma_next > 0 and sigma < INFINITE:
        denoised = denoise(latents, sigma_next)
        slope_next = (latents - denoised) / sigma_next
        latents = latents + (slope_next - slope) * ((sigma_next - sigma) / 2)
    return latents, denoised
