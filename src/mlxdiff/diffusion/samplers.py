"""Integrators of the diffusion equation: each walks down a list of sigmas and yields a Step at every level.

A sampler knows no network: `denoise(latents, sigma)` returns the predicted x0. Nothing here is evaluated; the caller
decides when. Latents are (B, h, w, C) fp32 in variance-exploding form, x0 + sigma * noise, so that the ODE is
d latents / d sigma = (latents - denoised) / sigma (Karras et al. 2022, equation 1 with sigma(t) = t).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import mlx.core as mx

from ..errors import RequestError
from .prediction import Denoiser, consistency, to_denoised, to_output
from .schedule import Schedule

Noise = Callable[[], mx.array]
"""Draws fresh unit noise in the shape of the latents."""


class Step(NamedTuple):
    """One step of a run, not evaluated.

    index      0 to n - 1
    sigma      the noise level of `latents`: 0 after the last step, or what the schedule ends with
    latents    (B, h, w, C) fp32 after the step
    denoised   the newest prediction of x0, for previews
    """

    index: int  # pyright: ignore[reportIncompatibleMethodOverride] (hides tuple.index, which no one needs here)
    sigma: float
    latents: mx.array
    denoised: mx.array


def euler(denoise: Denoiser, latents: mx.array, sigmas: Sequence[float]) -> Iterator[Step]:
    """Euler's method (Karras et al. 2022, Algorithm 2, no churn). First order."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(latents, sigma)
        latents = _rescale_noise(latents, denoised, sigma_next / sigma)
        yield Step(i, sigma_next, latents, denoised)


def ddim(
    denoise: Denoiser, latents: mx.array, sigmas: Sequence[float], arrivals: Sequence[float] | None = None
) -> Iterator[Step]:
    """DDIM (Song et al. 2021, equation 12, without noise): in these variables Euler's method (their equation 14).

    `arrivals` (n levels) is where the steps land if not on sigmas[1:], see `Schedule.arrivals`.
    """
    arrivals = sigmas[1:] if arrivals is None else arrivals
    for i, (sigma, arrival, sigma_next) in enumerate(zip(sigmas, arrivals, sigmas[1:], strict=False)):
        denoised = denoise(latents, sigma)
        latents = _read_as(_rescale_noise(latents, denoised, arrival / sigma), arrival, sigma_next)
        yield Step(i, sigma_next, latents, denoised)


def euler_ancestral(denoise: Denoiser, latents: mx.array, sigmas: Sequence[float], noise: Noise) -> Iterator[Step]:
    """Euler's method with the noise of ancestral sampling (Song et al. 2021, score SDE, appendix F; k-diffusion)."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(latents, sigma)
        ratio = sigma_next / sigma
        latents = _rescale_noise(latents, denoised, ratio * ratio)
        if sigma_next > 0:
            latents = latents + noise() * (sigma_next * math.sqrt(1 - ratio * ratio))
        yield Step(i, sigma_next, latents, denoised)


def heun(denoise: Denoiser, latents: mx.array, sigmas: Sequence[float]) -> Iterator[Step]:
    """Heun's method (Karras et al. 2022, Algorithm 1): two evaluations a step, one in the last. Second order."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(latents, sigma)
        slope = (latents - denoised) / sigma
        latents = _rescale_noise(latents, denoised, sigma_next / sigma)
        if sigma_next > 0:
            denoised = denoise(latents, sigma_next)
            slope_next = (latents - denoised) / sigma_next
            latents = latents + (slope_next - slope) * ((sigma_next - sigma) / 2)
        yield Step(i, sigma_next, latents, denoised)


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
    prediction_type: str = "epsilon",
    arrivals: Sequence[float] | None = None,
    departure: float | None = None,
) -> Iterator[Step]:
    """PLMS, the pseudo linear multi-step method (Liu et al. 2022, equation 12), started with a step of Heun's.

    n steps take n + 1 evaluations, two of them in the first; a single step is Euler's. What is averaged over steps is
    the noise, or with another `prediction_type` that output of the network, as diffusers does; of second order for
    epsilon, of first for v_prediction. `arrivals` and `departure` are `Schedule`'s.
    """
    arrivals = sigmas[1:] if arrivals is None else arrivals
    outputs: list[mx.array] = []
    for i, (sigma, arrival, sigma_next) in enumerate(zip(sigmas, arrivals, sigmas[1:], strict=False)):
        denoised = denoise(latents, sigma)
        outputs = [*outputs[-3:], to_output(prediction_type, denoised, latents, sigma)]
        if i == 0 and len(sigmas) > 2:
            ahead = _read_as(_rescale_noise(latents, denoised, arrival / sigma), arrival, sigma_next)
            denoised = denoise(ahead, sigma_next)
            mean = (outputs[0] + to_output(prediction_type, denoised, ahead, sigma_next)) / 2
            start = sigma if departure is None else departure
            latents, sigma, arrival = _read_as(latents, sigma, start), start, sigma_next
        else:
            weights = _ADAMS_BASHFORTH[len(outputs) - 1]
            mean = sum((o * weight for o, weight in zip(outputs, weights, strict=True)), mx.array(0.0))
        moved = _rescale_noise(latents, to_denoised(prediction_type, mean, latents, sigma), arrival / sigma)
        latents = _read_as(moved, arrival, sigma_next)
        yield Step(i, sigma_next, latents, denoised)


def dpmpp_2m(denoise: Denoiser, latents: mx.array, sigmas: Sequence[float]) -> Iterator[Step]:
    """DPM-Solver++(2M) (Lu et al. 2022b, Algorithm 2), first order in the first step and in one to sigma 0."""
    previous = None
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = target = denoise(latents, sigma)
        if previous is not None and sigma_next > 0:
            target = denoised + (denoised - previous) * _lookahead(sigmas, i)
        latents = _rescale_noise(latents, target, sigma_next / sigma)
        previous = denoised
        yield Step(i, sigma_next, latents, denoised)


def dpmpp_2m_sde(denoise: Denoiser, latents: mx.array, sigmas: Sequence[float], noise: Noise) -> Iterator[Step]:
    """SDE-DPM-Solver++(2M) (Lu et al. 2022b, appendix B.2, eta = 1, midpoint form), first order where `dpmpp_2m` is."""
    previous = None
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = target = denoise(latents, sigma)
        if previous is not None and sigma_next > 0:
            target = denoised + (denoised - previous) * _lookahead(sigmas, i)
        ratio = sigma_next / sigma
        latents = _rescale_noise(latents, target, ratio * ratio)
        if sigma_next > 0:
            latents = latents + noise() * (sigma_next * math.sqrt(1 - ratio * ratio))
        previous = denoised
        yield Step(i, sigma_next, latents, denoised)


def lcm(denoise: Denoiser, latents: mx.array, sigmas: Sequence[float], noise: Noise) -> Iterator[Step]:
    """Multistep consistency sampling (Luo et al. 2023, Algorithm 3): denoise fully, then add fresh noise.

    `denoise` is the consistency function, boundary condition included (`prediction.consistency`).
    """
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        latents = denoised = denoise(latents, sigma)
        if sigma_next > 0:
            latents = denoised + noise() * sigma_next
        yield Step(i, sigma_next, latents, denoised)


def _read_as(latents: mx.array, sigma: float, other: float) -> mx.array:
    """Latents of level `sigma` whose variance-preserving form is taken to be of level `other`."""
    return latents if sigma == other else latents * (math.hypot(other, 1.0) / math.hypot(sigma, 1.0))


def _rescale_noise(latents: mx.array, denoised: mx.array, ratio: float) -> mx.array:
    """Shrinks the noise in latents by `ratio`, which is Euler's step from sigma to ratio * sigma.

    Written so that it does not cancel: from sigma = 1e9, latents + slope * (sigma_next - sigma) would keep no digit.
    """
    return denoised + (latents - denoised) * ratio


def _lookahead(sigmas: Sequence[float], i: int) -> float:
    """Half a step in log sigma from level i, in units of the step before: how far the line through D is followed."""
    return math.log(sigmas[i] / sigmas[i + 1]) / (2 * math.log(sigmas[i - 1] / sigmas[i]))


@dataclass(frozen=True)
class Sampler:
    """An entry of SAMPLERS: `run(denoise, latents, sigmas)`, and with `noise` after them if `stochastic`."""

    run: Callable[..., Iterator[Step]]
    stochastic: bool = False


SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler(ddim),
    "pndm": Sampler(pndm),
    "euler": Sampler(euler),
    "euler_ancestral": Sampler(euler_ancestral, stochastic=True),
    "heun": Sampler(heun),
    "dpmpp_2m": Sampler(dpmpp_2m),
    "dpmpp_2m_sde": Sampler(dpmpp_2m_sde, stochastic=True),
    "lcm": Sampler(lcm, stochastic=True),
}


def sample(name: str, denoise: Denoiser, latents: mx.array, schedule: Schedule, noise: Noise) -> Iterator[Step]:
    """Runs a sampler on latents that carry noise of schedule.sigmas[0]; `noise` is called if the sampler needs any.

    `denoise` is a network's (`prediction.denoiser`), guidance included. Raises RequestError for an unknown sampler.
    """
    if name not in SAMPLERS:
        raise RequestError(f"There is no sampler {name!r}.", f"Choose one of {', '.join(SAMPLERS)}.")
    sampler = SAMPLERS[name]
    if name == "lcm":
        denoise = consistency(denoise, schedule)
    if name == "ddim":
        return ddim(denoise, latents, schedule.sigmas, schedule.arrivals)
    if name == "pndm":
        plan = (schedule.prediction_type, schedule.arrivals, schedule.departure)
        return pndm(denoise, latents, schedule.sigmas, *plan)
    if sampler.stochastic:
        return sampler.run(denoise, latents, schedule.sigmas, noise)
    return sampler.run(denoise, latents, schedule.sigmas)
