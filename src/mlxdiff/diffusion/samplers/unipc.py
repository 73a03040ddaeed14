"""UniPC: each prediction of the network also corrects the step that led to where it was asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import mlx.core as mx
import numpy as np

from ..step import Denoiser, Step
from .arithmetic import INFINITE, log_step, rescale_noise


def unipc(
    denoise: Denoiser,
    latents: mx.array,
    sigmas: Sequence[float],
    order: int = 2,
    solver_type: str = "bh2",
    lower_order_final: bool = True,
) -> Iterator[Step]:
    """UniPC (Zhao et al. 2023, Algorithms 5 and 6, which predict x0). Of order + 1, and 1 in the step to sigma 0.

    order        1 to 3, lower in the first steps
    solver_type  B(h) of the paper: bh1 is h, bh2 is e^h - 1
    lower_order_final  lower orders at the end
    """
    n = len(sigmas) - 1
    history: list[mx.array] = []  # predictions, newest first
    start, used = latents, 0
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(latents, sigma)
        if used > 0 and sigmas[i - 1] < INFINITE:
            weights = _weights(sigmas, i - 1, used, solver_type, corrects=True)
            latents = _step(start, history, denoised, weights, sigma / sigmas[i - 1])
        history = [denoised, *history[: order - 1]]
        used = min(order, len(history), n - i) if lower_order_final else min(order, len(history))
        if sigma_next == 0 or sigma >= INFINITE:
            used = 1
        start = latents
        weights = _weights(sigmas, i, used, solver_type, corrects=False) if used > 1 else []
        latents = _step(start, history, None, weights, sigma_next / sigma)
        if sigma >= INFINITE:
            history, used = [], 0
        yield Step(i, sigma_next, latents, denoised)


def _step(
    start: mx.array, history: Sequence[mx.array], newest: mx.array | None, weights: Sequence[float], ratio: float
) -> mx.array:
    """Euler's step along history[0], and the differences to it that the other predictions add, `newest` the last."""
    moved = rescale_noise(start, history[0], ratio)
    others = [*history[1 : len(weights) + (newest is None)], *([] if newest is None else [newest])]
    for other, weight in zip(others, weights, strict=True):
        moved = moved + (other - history[0]) * weight
    return moved


def _weights(sigmas: Sequence[float], i: int, order: int, solver_type: str, corrects: bool) -> list[float]:
    """What each difference to the prediction at sigmas[i] weighs in the step from there."""
    h = log_step(sigmas[i], sigmas[i + 1])
    nodes = [math.log(sigmas[i] / sigmas[i - k]) / h for k in range(1, order)] + [1.0]
    scale = -h if solver_type == "bh1" else math.expm1(-h)
    phi, factorial, right = math.expm1(-h) / -h - 1, 1, []
    for k in range(1, order + 1):
        right.append(phi * factorial / scale)
        factorial *= k + 1
        phi = phi / -h - 1 / factorial
    powers = np.array([[node**k for node in nodes] for k in range(order)])
    if corrects:
        found = [0.5] if order == 1 else np.linalg.solve(powers, right).tolist()
    else:
        found = [0.5] if order == 2 else np.linalg.solve(powers[:-1, :-1], right[:-1]).tolist()
    return [-scale * weight / node for weight, node in zip(found, nodes, strict=False)]
