"""Samplers in CFG++ form: the noise that is kept is the one that the negative prompt's prediction leaves.

x0 is the guided prediction D, and the direction is (x - D_u) / sigma with D_u of the negative branch (Chung et al.
2024, "CFG++", Algorithm 2, in ComfyUI's form, where the guidance scale is applied to D). `denoise` needs `branches`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import mlx.core as mx

from ..step import BranchedDenoiser, Noise, Step
from .arithmetic import ancestral_split, lookahead, read_as, with_noise


def _both(denoise: BranchedDenoiser, latents: mx.array, sigma: float) -> tuple[mx.array, mx.array]:
    """The guided prediction and the negative prompt's, which is the guided one where there is no guidance."""
    denoised, branches = denoise.branches(latents, sigma)
    return denoised, branches.get("negative", denoised)


def euler_cfg_pp(denoise: BranchedDenoiser, latents: mx.array, sigmas: Sequence[float]) -> Iterator[Step]:
    """`euler` in CFG++ form."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised, negative = _both(denoise, latents, sigma)
        latents = denoised + (latents - negative) * (sigma_next / sigma)
        yield Step(i, sigma_next, latents, denoised)


def euler_ancestral_cfg_pp(
    denoise: BranchedDenoiser,
    latents: mx.array,
    sigmas: Sequence[float],
    noise: Noise,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """`euler_ancestral` in CFG++ form."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised, negative = _both(denoise, latents, sigma)
        ratio, up = ancestral_split(sigma, sigma_next, eta)
        latents = denoised + (latents - negative) * ratio
        latents = with_noise(latents, noise, sigma, sigma_next, up * s_noise)
        yield Step(i, sigma_next, latents, denoised)


def ddim_cfg_pp(
    denoise: BranchedDenoiser,
    latents: mx.array,
    sigmas: Sequence[float],
    noise: Noise,
    arrivals: Sequence[float] | None = None,
    eta: float = 0.0,
) -> Iterator[Step]:
    """`ddim` in CFG++ form (Chung et al. 2024, Algorithm 2; A1111)."""
    arrivals = sigmas[1:] if arrivals is None else arrivals
    for i, (sigma, arrival, sigma_next) in enumerate(zip(sigmas, arrivals, sigmas[1:], strict=False)):
        denoised, negative = _both(denoise, latents, sigma)
        ratio, up = ancestral_split(sigma, arrival, eta)
        latents = with_noise(denoised + (latents - negative) * ratio, noise, sigma, arrival, up)
        latents = read_as(latents, arrival, sigma_next)
        yield Step(i, sigma_next, latents, denoised)


def dpmpp_2m_cfg_pp(denoise: BranchedDenoiser, latents: mx.array, sigmas: Sequence[float]) -> Iterator[Step]:
    """`dpmpp_2m` in CFG++ form (ComfyUI): what is followed in log sigma is the negative prompt's prediction."""
    previous = None
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised, negative = _both(denoise, latents, sigma)
        ratio = sigma_next / sigma
        moved = denoised + (latents - negative) * ratio
        if previous is not None and sigma_next > 0:
            moved = moved + (denoised - previous) * ((1 - ratio) * lookahead(sigmas, i))
        latents, previous = moved, negative
        yield Step(i, sigma_next, latents, denoised)


def dpmpp_2s_ancestral_cfg_pp(
    denoise: BranchedDenoiser,
    latents: mx.array,
    sigmas: Sequence[float],
    noise: Noise,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """`dpmpp_2s_ancestral` in CFG++ form, as ComfyUI has it: its shift mixes predictions of the two levels."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised, negative = _both(denoise, latents, sigma)
        ratio, up = ancestral_split(sigma, sigma_next, eta)
        if ratio > 0:
            half = math.sqrt(ratio)
            halfway = denoised + (latents - negative) * half
            newest, negative = _both(denoise, halfway, sigma * half)
            latents = newest + (latents + (denoised - negative) - newest) * ratio
            denoised = newest
        else:
            latents = denoised + (latents - negative) * ratio
        latents = with_noise(latents, noise, sigma, sigma_next, up * s_noise)
        yield Step(i, sigma_next, latents, denoised)
