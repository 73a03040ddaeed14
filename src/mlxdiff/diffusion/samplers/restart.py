"""Restart sampling: Heun's method that goes back up to a higher level now and then."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import mlx.core as mx

from ..ramps import karras
from ..step import Denoiser, Noise, Step
from .euler import heun_step

_LOW, _HIGH = 0.1, 2.0  # levels between which it restarts (Xu et al. 2023, table 3, rounded by A1111)


def restart(
    denoise: Denoiser, latents: mx.array, sigmas: Sequence[float], noise: Noise, s_noise: float = 1.0
) -> Iterator[Step]:
    """Restart sampling (Xu et al. 2023, Algorithm 1), as A1111 shares out n steps.

    Below 20 steps it is Heun's method. From 20 on, levels are Karras' between the ends of `sigmas`, fewer of them, and
    9 steps lead down from 2 to 0.1 a second time; from 36 on, a quarter of the steps do so twice.
    """
    last = sigmas[0]
    for i, (sigma, sigma_next) in enumerate(plan(sigmas)):
        if sigma > last:
            latents = latents + noise(last, sigma) * (s_noise * math.sqrt(sigma * sigma - last * last))
        latents, denoised = heun_step(denoise, latents, sigma, sigma_next)
        last = sigma_next
        yield Step(i, sigma_next, latents, denoised)


def plan(sigmas: Sequence[float]) -> list[tuple[float, float]]:
    """The levels between which each of the n steps leads; where one begins above the end of the last, it restarts."""
    n = len(sigmas) - 1
    if n < 20 or sigmas[-1] > 0:
        return list(pairwise(sigmas))
    length, times = (n // 4, 2) if n >= 36 else (9, 1)
    levels = [*karras(n - length * times, sigmas[0], sigmas[-2]).tolist(), 0.0]
    low = min(range(len(levels)), key=lambda i: abs(levels[i] - _LOW))
    high = min(range(len(levels)), key=lambda i: abs(levels[i] - _HIGH))
    if high >= low:
        return list(pairwise(sigmas))
    again = karras(length + 1, levels[high], levels[low]).tolist()
    steps = list(pairwise(levels))
    return [*steps[:low], *(list(pairwise(again)) * times), *steps[low:]]
