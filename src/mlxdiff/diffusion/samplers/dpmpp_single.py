"""DPM-Solver++ of one step: two evaluations, at its beginning and in its middle, in log sigma."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import mlx.core as mx

from ..step import Denoiser, Noise, Step
from .arithmetic import ancestral_split, rescale_noise, with_noise


def dpmpp_2s_ancestral(
    denoise: Denoiser, latents: mx.array, sigmas: Sequence[float], noise: Noise, eta: float = 1.0, s_noise: float = 1.0
) -> Iterator[Step]:
    """DPM-Solver++(2S) (Lu et al. 2022b, Algorithm 1, r = 1/2) with the noise of ancestral sampling (k-diffusion)."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(latents, sigma)
        ratio, up = ancestral_split(sigma, sigma_next, eta)
        if ratio > 0:
            half = math.sqrt(ratio)
            denoised = denoise(rescale_noise(latents, denoised, half), sigma * half)
        latents = with_noise(rescale_noise(latents, denoised, ratio), noise, sigma, sigma_next, up * s_noise)
        yield Step(i, sigma_next, latents, denoised)


def dpmpp_sde(
    denoise: Denoiser, latents: mx.array, sigmas: Sequence[float], noise: Noise, eta: float = 1.0, s_noise: float = 1.0
) -> Iterator[Step]:
    """SDE-DPM-Solver++ of one step (k-diffusion, `sample_dpmpp_sde`, r = 1/2): noise in the middle too."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(latents, sigma)
        if sigma_next > 0:
            middle = math.sqrt(sigma * sigma_next)
            ratio, up = ancestral_split(sigma, middle, eta)
            halfway = with_noise(rescale_noise(latents, denoised, ratio), noise, sigma, middle, up * s_noise)
            denoised = denoise(halfway, middle)
        ratio, up = ancestral_split(sigma, sigma_next, eta)
        latents = with_noise(rescale_noise(latents, denoised, ratio), noise, sigma, sigma_next, up * s_noise)
        yield Step(i, sigma_next, latents, denoised)
