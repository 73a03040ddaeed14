"""Linear multistep methods: a step is taken along an average of the last slopes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mlx.core as mx

from ..space import Space, VariancePreserving
from ..step import Denoiser, Step
from .arithmetic import read_as, rescale_noise

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
