"""SA-Solver: a predictor and a corrector for the SDE, whose share of noise may change on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import mlx.core as mx
import numpy as np

from ..step import Denoiser, Noise, Step
from .arithmetic import INFINITE, rescale_noise

_NOISY = (200.0, 800.0)  # timesteps between which noise is added, diffusers' default


def sa_solver(
    denoise: Denoiser,
    latents: mx.array,
    sigmas: Sequence[float],
    noise: Noise,
    timestep: Callable[[float], float] | None = None,
    predictor_order: int = 2,
    corrector_order: int = 2,
    eta: float = 1.0,
    lower_order_final: bool = True,
) -> Iterator[Step]:
    """SA-Solver (Xue et al. 2023, Algorithm 1, data prediction), as diffusers' SASolverScheduler.

    timestep  of a level (`Schedule.timestep`); noise is added between timesteps 200 and 800, and without it everywhere
    eta       tau of the paper there
    """
    n = len(sigmas) - 1
    history: list[mx.array] = []  # predictions, newest first
    start, drawn, tau, corrects = latents, latents, 0.0, 0
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(latents, sigma)
        if corrects > 0:
            weights = _weights(sigmas, i - 1, i, corrects, tau)
            latents = _step(start, [denoised, *history], weights, sigmas[i - 1], sigma, tau, drawn)
        history = [denoised, *history[: max(predictor_order, corrector_order - 1) - 1]]
        made, left = i, n - i
        order = min(predictor_order, made + 1, len(history))
        corrects = min(corrector_order, made + 2, len(history) + 1)
        if lower_order_final:
            order, corrects = min(order, left), min(corrects, left + 1)
        if sigma_next == 0 or sigma >= INFINITE:
            order, corrects = 1, 0
        noisy = timestep is None or _NOISY[0] <= timestep(sigma) <= _NOISY[1]
        start, drawn, tau = latents, noise(sigma, sigma_next), eta if noisy else 0.0
        if order == 1 and sigma_next == 0:
            latents = denoised
        else:
            weights = _weights(sigmas, i, i, order, tau)
            latents = _step(start, history, weights, sigma, sigma_next, tau, drawn)
        if sigma >= INFINITE:
            history = []
        yield Step(i, sigma_next, latents, denoised)


def _step(
    start: mx.array,
    predictions: Sequence[mx.array],
    weights: Sequence[float],
    sigma: float,
    sigma_next: float,
    tau: float,
    drawn: mx.array,
) -> mx.array:
    """The weights add up to 1 - shrunk, so that x = D + (start - D) * shrunk, plus differences, plus noise."""
    renewal = (sigma_next / sigma) ** (tau * tau)
    moved = rescale_noise(start, predictions[0], renewal * sigma_next / sigma)
    for other, weight in zip(predictions[1:], weights[1:], strict=False):
        moved = moved + (other - predictions[0]) * weight
    return moved + drawn * (sigma_next * math.sqrt(1 - renewal * renewal)) if tau > 0 else moved


def _weights(sigmas: Sequence[float], i: int, newest: int, order: int, tau: float) -> list[float]:
    """What predictions at sigmas[newest], sigmas[newest - 1], ... weigh in the step from sigmas[i] to the next.

    Their Lagrange polynomials in u = log(sigma / sigma_next) times a e^(-a u), integrated over the step; a = 1 + tau^2.
    For two predictions with the paper's terms of third order, which help where steps are few.
    """
    end, a = sigmas[i + 1], 1 + tau * tau
    h = math.log(sigmas[i] / end)
    nodes = [math.log(sigmas[newest - k] / end) for k in range(order)]
    moments = [-math.expm1(-a * h)]
    for k in range(1, order):
        moments.append(k / a * moments[-1] - h**k * math.exp(-a * h))
    found = []
    for j, node in enumerate(nodes):
        basis = np.poly1d([1.0])
        for k, other in enumerate(nodes):
            if k != j:
                basis = basis * np.poly1d([1.0, -other]) / (node - other)
        found.append(float(sum(c * m for c, m in zip(basis.coeffs[::-1], moments, strict=False))))
    if order == 2:
        rest = (a * h - 1 + math.exp(-a * h)) / (a * a)
        predicts = newest == i
        extra = a * (h * h / 2 - rest) / (nodes[1] - nodes[0]) if predicts else a * (h / 2 - rest / h)
        found = [found[0] + extra, found[1] - extra]
    return found
