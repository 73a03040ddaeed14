"""Linear multistep methods: a step is taken along an average of the last slopes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import mlx.core as mx
import numpy as np

from ..space import Space, VariancePreserving
from ..step import Denoiser, Noise, Step
from .arithmetic import INFINITE, ancestral_split, log_step, read_as, rescale_noise, with_noise

# Weights of the last outputs, oldest first, by how many there are (Adams-Bashforth).
_ADAMS_BASHFORTH = (
    (1.0,),
    (-1 / 2, 3 / 2),
    (5 / 12, -16 / 12, 23 / 12),
    (-9 / 24, 37 / 24, -59 / 24, 55 / 24),
)


def pndm(
    denoise: Denoiser,
    latents: mx.array,
    sigmas: Sequence[float],
    space: Space | None = None,
    arrivals: Sequence[float] | None = None,
    departure: float | None = None,
    rehearsal: float | None = None,
) -> Iterator[Step]:
    """PLMS, the pseudo linear multi-step method (Liu et al. 2022, equation 12), started with a step of Heun's.

    n steps take n + 1 evaluations, two of them in the first; a single step is Euler's. What is averaged over steps is
    the network's output in `space`, None for the noise, as diffusers does; of second order for the noise, of first for
    v_prediction. `arrivals`, `departure` and `rehearsal` are `Schedule`'s.
    """
    space = VariancePreserving("epsilon") if space is None else space
    arrivals = sigmas[1:] if arrivals is None else arrivals
    if rehearsal is None and len(sigmas) > 2:
        rehearsal = sigmas[1]
    outputs: list[mx.array] = []
    for i, (sigma, arrival, sigma_next) in enumerate(zip(sigmas, arrivals, sigmas[1:], strict=False)):
        denoised = denoise(latents, sigma)
        outputs = [*outputs[-3:], space.to_output(denoised, latents, sigma)]
        if i == 0 and rehearsal is not None:
            ahead = read_as(rescale_noise(latents, denoised, arrival / sigma), arrival, rehearsal)
            denoised = denoise(ahead, rehearsal)
            mean = (outputs[0] + space.to_output(denoised, ahead, rehearsal)) / 2
            start = sigma if departure is None else departure
            latents, sigma, arrival = read_as(latents, sigma, start), start, rehearsal
        else:
            weights = _ADAMS_BASHFORTH[len(outputs) - 1]
            mean = sum((o * weight for o, weight in zip(outputs, weights, strict=True)), mx.array(0.0))
        moved = rescale_noise(latents, space.to_denoised(mean, latents, sigma), arrival / sigma)
        latents = read_as(moved, arrival, sigma_next)
        yield Step(i, sigma_next, latents, denoised)


def lms(denoise: Denoiser, latents: mx.array, sigmas: Sequence[float], order: int = 4) -> Iterator[Step]:
    """The linear multistep method: the polynomial through the last slopes, integrated (k-diffusion, `sample_lms`).

    order  1 to 4; as many slopes as there are in the first steps
    """
    return _adams(denoise, latents, sigmas, order, lambda sigma: sigma, lowers=False)


def deis(
    denoise: Denoiser,
    latents: mx.array,
    sigmas: Sequence[float],
    order: int = 2,
    lower_order_final: bool = False,
    planned: int | None = None,
) -> Iterator[Step]:
    """DEIS, log-rho multistep (Zhang and Chen 2023): as `lms`, with a polynomial in log sigma. To 0 it is Euler's step.

    order  1 to 3
    lower_order_final  diffusers': lower orders at the end, where fewer than 15 steps are `planned`
    """
    lowers = lower_order_final and (len(sigmas) - 1 if planned is None else planned) < 15
    return _adams(denoise, latents, sigmas, order, math.log, lowers)


def _adams(
    denoise: Denoiser,
    latents: mx.array,
    sigmas: Sequence[float],
    order: int,
    variable: Callable[[float], float],
    lowers: bool,
) -> Iterator[Step]:
    slopes: list[mx.array] = []  # newest first, at levels from sigmas[i] up
    n = len(sigmas) - 1
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(latents, sigma)
        slopes = [(latents - denoised) / sigma, *slopes[: order - 1]]
        usable = min(len(slopes), n - i) if lowers else len(slopes)
        if sigma >= INFINITE:
            slopes, usable = [], 0
        if usable < 2 or (sigma_next == 0 and variable is math.log):
            latents = rescale_noise(latents, denoised, sigma_next / sigma)
        else:
            levels = [sigmas[i - j] for j in range(usable)]
            weights = _integrals(levels, sigma_next, variable)
            latents = latents + sum((s * w for s, w in zip(slopes, weights, strict=False)), mx.array(0.0))
        yield Step(i, sigma_next, latents, denoised)


def _integrals(levels: Sequence[float], end: float, variable: Callable[[float], float]) -> list[float]:
    """What each slope weighs: its Lagrange polynomial in `variable`, integrated over sigma from levels[0] to `end`."""
    if variable is math.log and end > 0:  # sigma = e^u: the integrand is a polynomial times e^u, over short steps
        low, high = math.log(levels[0]), math.log(end)
    else:
        low, high = levels[0], end
    nodes = [variable(level) for level in levels]
    points, weights = np.polynomial.legendre.leggauss(16)
    at = (high + low) / 2 + points * (high - low) / 2
    scale = weights * (high - low) / 2 * (np.exp(at) if variable is math.log else 1)
    found = []
    for j, node in enumerate(nodes):
        basis = np.prod([(at - other) / (node - other) for k, other in enumerate(nodes) if k != j], axis=0)
        found.append(float(np.sum(basis * scale)))
    return found


def ipndm(denoise: Denoiser, latents: mx.array, sigmas: Sequence[float]) -> Iterator[Step]:
    """The improved pseudo numerical method (Zhang and Chen 2023, iPNDM): Adams-Bashforth's weights for even steps."""
    slopes: list[mx.array] = []  # oldest first
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(latents, sigma)
        slopes = [*slopes[-3:], (latents - denoised) / sigma] if sigma < INFINITE else []
        if sigma_next == 0 or not slopes:
            latents = rescale_noise(latents, denoised, sigma_next / sigma)
        else:
            weights = _ADAMS_BASHFORTH[len(slopes) - 1]
            mean = sum((s * weight for s, weight in zip(slopes, weights, strict=True)), mx.array(0.0))
            latents = latents + mean * (sigma_next - sigma)
        yield Step(i, sigma_next, latents, denoised)


def res_multistep(
    denoise: Denoiser,
    latents: mx.array,
    sigmas: Sequence[float],
    noise: Noise,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """RES multistep, second order (Zhang et al. 2023, "Improved Order Analysis"; ComfyUI, `res_multistep`)."""
    previous, reached = None, 0.0  # the last prediction, and the level that the last step came down to before its noise
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(latents, sigma)
        ratio, up = ancestral_split(sigma, sigma_next, eta)
        target = denoised
        if previous is not None and ratio > 0:
            h = -math.log(ratio)
            c2 = log_step(reached, sigmas[i - 1]) / h if reached > 0 else 0.0
            phi1 = math.expm1(-h) / -h
            phi2 = (phi1 - 1) / -h
            b2 = phi2 / c2 if c2 != 0 else 0.0
            # b1 * D + b2 * D_prev with b1 + b2 = phi1, and phi1 * h = 1 - e^-h
            target = denoised + (previous - denoised) * (b2 / phi1)
        latents = with_noise(rescale_noise(latents, target, ratio), noise, sigma, sigma_next, up * s_noise)
        previous, reached = denoised, ratio * sigma
        yield Step(i, sigma_next, latents, denoised)
