"""DPM-Solver++ over several steps: the prediction is followed along a line, or a parabola, in log sigma."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import mlx.core as mx

from ..step import Denoiser, Noise, Step
from .arithmetic import log_step, lookahead, rescale_noise, with_noise

_FEW = 15  # steps; below it diffusers takes lower orders at the end


def dpmpp_2m(
    denoise: Denoiser,
    latents: mx.array,
    sigmas: Sequence[float],
    order: int = 2,
    solver_type: str = "midpoint",
    lower_order_final: bool = False,
    euler_at_final: bool = False,
    planned: int | None = None,
) -> Iterator[Step]:
    """DPM-Solver++(2M) (Lu et al. 2022b, Algorithm 2), first order in the first step and in one to sigma 0.

    order        1 to 3
    solver_type  of the second order: midpoint, or heun (their equation 4.7 or B.7)
    lower_order_final, euler_at_final  diffusers': lower orders at the end of less than 15 steps, or in the last step
    planned      `Schedule.planned`, which is what is compared with 15; all of `sigmas` without it
    """
    orders = _orders(sigmas, order, lower_order_final, euler_at_final, planned)
    history: list[mx.array] = []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(latents, sigma)
        history = [denoised, *history[:2]]
        target = _target(history, sigmas, i, orders[i], solver_type, log_step(sigma, sigma_next))
        latents = rescale_noise(latents, target, sigma_next / sigma)
        yield Step(i, sigma_next, latents, denoised)


def dpmpp_2m_sde(
    denoise: Denoiser,
    latents: mx.array,
    sigmas: Sequence[float],
    noise: Noise,
    order: int = 2,
    solver_type: str = "midpoint",
    eta: float = 1.0,
    s_noise: float = 1.0,
    lower_order_final: bool = False,
    euler_at_final: bool = False,
    planned: int | None = None,
) -> Iterator[Step]:
    """SDE-DPM-Solver++(2M) (Lu et al. 2022b, appendix B.2), of lower order where `dpmpp_2m` is, with its options.

    The third order is diffusers', whose half has the wrong sign; `dpmpp_3m_sde` is right.
    """
    orders = _orders(sigmas, order, lower_order_final, euler_at_final, planned)
    history: list[mx.array] = []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(latents, sigma)
        history = [denoised, *history[:2]]
        length = log_step(sigma, sigma_next) * (1 + eta)
        target = _target(history, sigmas, i, orders[i], solver_type, length, -0.5)
        ratio = sigma_next / sigma
        renewal = ratio**eta
        latents = rescale_noise(latents, target, ratio * renewal)
        level = sigma_next * math.sqrt(1 - renewal * renewal) * s_noise
        latents = with_noise(latents, noise, sigma, sigma_next, level)
        yield Step(i, sigma_next, latents, denoised)


def dpmpp_3m_sde(
    denoise: Denoiser,
    latents: mx.array,
    sigmas: Sequence[float],
    noise: Noise,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """SDE-DPM-Solver++(3M) (k-diffusion, `sample_dpmpp_3m_sde`), of lower order in the first two steps."""
    orders = _orders(sigmas, 3, lower_order_final=False, euler_at_final=False)
    history: list[mx.array] = []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(latents, sigma)
        history = [denoised, *history[:2]]
        target = _target(history, sigmas, i, orders[i], "heun", log_step(sigma, sigma_next) * (1 + eta))
        ratio = sigma_next / sigma
        renewal = ratio**eta
        latents = rescale_noise(latents, target, ratio * renewal)
        level = sigma_next * math.sqrt(1 - renewal * renewal) * s_noise
        latents = with_noise(latents, noise, sigma, sigma_next, level)
        yield Step(i, sigma_next, latents, denoised)


def _orders(
    sigmas: Sequence[float], order: int, lower_order_final: bool, euler_at_final: bool, planned: int | None = None
) -> list[int]:
    """The order of each step: no more than steps that were made, and lower at the end."""
    n = len(sigmas) - 1
    orders = [min(order, i + 1) for i in range(n)]
    few = lower_order_final and (n if planned is None else planned) < _FEW
    if few and n > 1:
        orders[-2] = min(orders[-2], 2)
    if few or euler_at_final or sigmas[-1] == 0:
        orders[-1] = 1
    return orders


def _target(
    history: Sequence[mx.array],
    sigmas: Sequence[float],
    i: int,
    order: int,
    solver_type: str,
    length: float,
    half: float = 0.5,
) -> mx.array:
    """The prediction that makes a step of first order one of `order`: x = target + (x - target) * ratio.

    history: predictions at sigmas[i], sigmas[i - 1], ...; length: of the step, in log sigma, times 1 + eta; half: 1/2,
    the constant of the third order.
    """
    denoised = history[0]
    if order == 1 or sigmas[i] == sigmas[i + 1]:
        return denoised
    if order == 2 and solver_type == "midpoint":
        return denoised + (denoised - history[1]) * lookahead(sigmas, i)
    # Taylor's terms (Lu et al. 2022b, appendix B), over 1 - e^-length, which is what the first order multiplies with.
    shrunk = -math.expm1(-length)
    line = (1 - shrunk / length) / shrunk
    h, h_last = log_step(sigmas[i], sigmas[i + 1]), log_step(sigmas[i - 1], sigmas[i])
    if order == 2:
        return denoised + (denoised - history[1]) * (line * h / h_last)
    h_before = log_step(sigmas[i - 2], sigmas[i - 1])
    r0, r1 = h_last / h, h_before / h
    near, far = (denoised - history[1]) / r0, (history[1] - history[2]) / r1
    first = near + (near - far) * (r0 / (r0 + r1))
    second = (near - far) / (r0 + r1)
    return denoised + first * line + second * ((half - (length - shrunk) / length**2) / shrunk)
