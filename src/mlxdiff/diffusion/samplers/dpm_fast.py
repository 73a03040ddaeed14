"""DPM-Solver of orders 1 to 3 between the ends of a schedule: in a number of evaluations, or to a tolerance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import mlx.core as mx
import numpy as np

from ..step import Denoiser, Noise, Step
from .arithmetic import ancestral_split, rescale_noise, with_noise

_CLOSE = 1e-5  # to the end, in log sigma


def dpm_fast(
    denoise: Denoiser,
    latents: mx.array,
    sigmas: Sequence[float],
    noise: Noise,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """DPM-Solver-fast (Lu et al. 2022a, appendix D.4; k-diffusion): n evaluations from sigmas[0] to the last above 0.

    Of `sigmas` only the ends and the number count. There is a Step for every evaluation; the latents move where one
    completes a step of the solver. The run ends at the last level above 0.
    """
    n, start, end = len(sigmas) - 1, sigmas[0], _last_positive(sigmas)
    count = n // 3 + 1
    orders = [3] * (count - 2) + [2, 1] if n % 3 == 0 else [3] * (count - 1) + [n % 3]
    index = 0
    for i, order in enumerate(orders):
        sigma, sigma_next = (start * (end / start) ** (k / count) for k in (i, i + 1))
        low, up = _below(sigma, sigma_next, end, eta)
        stages = _Stages(denoise, latents, sigma, low)
        for stage in range(order - 1):
            denoised = stages.ask(stage + 1, order)
            yield Step(index, sigma, latents, denoised)
            index += 1
        denoised = stages.ask(order, order)
        latents = with_noise(stages.moved(order), noise, sigma, sigma_next, up * s_noise)
        yield Step(index, sigma_next, latents, denoised)
        index += 1


def dpm_adaptive(
    denoise: Denoiser,
    latents: mx.array,
    sigmas: Sequence[float],
    noise: Noise,
    rtol: float = 0.05,
    atol: float = 0.0078,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """DPM-Solver-23 with steps of its own size (Lu et al. 2022a, appendix C; k-diffusion, order 3, h 0.05, 0.81).

    Of `sigmas` only the ends count: the run goes from the first to the last above 0, in as many steps of three
    evaluations as the tolerances ask for. It is the one sampler that evaluates its latents, to know their error.
    """
    sigma, end = sigmas[0], _last_positive(sigmas)
    length, previous, index = 0.05, latents, 0
    while math.log(sigma / end) > _CLOSE:
        sigma_next = max(end, sigma * math.exp(-length))
        low, up = _below(sigma, sigma_next, end, eta)
        stages = _Stages(denoise, latents, sigma, low)
        for stage in (1, 2, 3):
            denoised = stages.ask(stage, 3)
        coarse, fine = stages.moved(2, 1 / 3), stages.moved(3)
        allowed = mx.maximum(atol, rtol * mx.maximum(mx.abs(coarse), mx.abs(previous)))
        error = float(np.array(mx.sqrt(mx.mean(mx.square((coarse - fine) / allowed)))))
        factor = 1 + math.atan((1 / (error + 1e-8)) ** (1 / (1.5 if eta > 0 else 3)) - 1)
        length *= factor
        if factor >= 0.81:
            previous = coarse
            latents = with_noise(fine, noise, sigma, sigma_next, up * s_noise)
            sigma = sigma_next
            yield Step(index, sigma, latents, denoised)
            index += 1


def _last_positive(sigmas: Sequence[float]) -> float:
    return sigmas[-1] if sigmas[-1] > 0 else sigmas[-2]


def _below(sigma: float, sigma_next: float, end: float, eta: float) -> tuple[float, float]:
    """The level that a step goes down to, not below the end, and the noise that leads back up to sigma_next."""
    ratio, _ = ancestral_split(sigma, sigma_next, eta)
    low = max(end, ratio * sigma) if eta > 0 else sigma_next
    return low, math.sqrt(max(0.0, sigma_next * sigma_next - low * low))


class _Stages:
    """The evaluations of one step of DPM-Solver from sigma to `low` (Lu et al. 2022a, Algorithms 1, 4 and 5)."""

    def __init__(self, denoise: Denoiser, latents: mx.array, sigma: float, low: float) -> None:
        self._denoise, self._latents, self._sigma, self._low = denoise, latents, sigma, low
        self._h = math.log(sigma / low)
        self._denoised = latents
        self._slopes: list[mx.array] = []

    def ask(self, stage: int, order: int) -> mx.array:
        """The prediction of stage 1 to `order`."""
        x, sigma = self._latents, self._sigma
        if stage > 1:
            r = stage - 1
            part = r / order
            sigma = self._sigma * math.exp(-part * self._h)
            x = rescale_noise(x, self._denoised, sigma / self._sigma)
            if stage == 3:
                x = x - (self._slopes[1] - self._slopes[0]) * (sigma * 2 * _phi(part * self._h))
        denoised = self._denoise(x, sigma)
        if stage == 1:
            self._denoised = denoised
        self._slopes.append((x - denoised) / sigma)
        return denoised

    def moved(self, order: int, r: float = 1 / 2) -> mx.array:
        """The latents at `low`, by a method of this order. r: where the second stage of order 2 stands."""
        x = rescale_noise(self._latents, self._denoised, self._low / self._sigma)
        if order == 2:
            x = x - (self._slopes[1] - self._slopes[0]) * ((self._sigma - self._low) / (2 * r))
        if order == 3:
            x = x - (self._slopes[2] - self._slopes[0]) * (self._low * 3 / 2 * _phi(self._h))
        return x


def _phi(h: float) -> float:
    return math.expm1(h) / h - 1 if h > 0 else 0.0
