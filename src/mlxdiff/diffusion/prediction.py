"""From a network's output to denoised latents, in variance-exploding form.

The networks were trained on variance-preserving latents z = alpha * x0 + s * noise with alpha^2 + s^2 = 1. With
sigma = s / alpha, z is latents / sqrt(sigma^2 + 1), and so the network's input.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import mlx.core as mx

from ..errors import UnsupportedError
from .schedule import Schedule

Denoiser = Callable[[mx.array, float], mx.array]
"""(latents, sigma) -> denoised: the predicted x0, both (B, h, w, C) fp32."""

Network = Callable[[mx.array, mx.array], mx.array]
"""(scaled latents, timestep) -> output; the timestep is an fp32 scalar array, lest a compiled network be recompiled."""

_SIGMA_DATA = 0.5  # of the consistency models' boundary condition


def denoiser(network: Network, schedule: Schedule) -> Denoiser:
    """Wraps a network that follows the schedule's prediction type; the result takes the schedule's own sigmas."""

    def denoise(latents: mx.array, sigma: float) -> mx.array:
        scale = mx.array(1 / math.hypot(sigma, 1.0), dtype=mx.float32)
        timestep = mx.array(schedule.timestep(sigma), dtype=mx.float32)
        return to_denoised(schedule.prediction_type, network(latents * scale, timestep), latents, sigma)

    return denoise


def to_denoised(prediction_type: str, output: mx.array, latents: mx.array, sigma: float) -> mx.array:
    """x0 as a network's output at `sigma` says, in fp32. output, latents: (B, h, w, C).

    epsilon is the noise; v_prediction is alpha * noise - s * x0 (Salimans and Ho 2022, appendix D); sample is x0.
    Raises UnsupportedError for another type.
    """
    output = output.astype(mx.float32)
    if prediction_type == "epsilon":
        return latents - output * sigma
    if prediction_type == "v_prediction":
        return latents / (sigma * sigma + 1) - output * (sigma / math.hypot(sigma, 1.0))
    if prediction_type == "sample":
        return output
    raise _unknown(prediction_type)


def to_output(prediction_type: str, denoised: mx.array, latents: mx.array, sigma: float) -> mx.array:
    """The inverse of `to_denoised`: what a network says whose prediction of x0 is `denoised`."""
    if prediction_type == "epsilon":
        return (latents - denoised) / sigma
    if prediction_type == "v_prediction":
        return (latents / (sigma * sigma + 1) - denoised) * (math.hypot(sigma, 1.0) / sigma)
    if prediction_type == "sample":
        return denoised
    raise _unknown(prediction_type)


def _unknown(prediction_type: str) -> UnsupportedError:
    return UnsupportedError(
        f"The prediction type {prediction_type!r} is not implemented.",
        "Use a checkpoint with epsilon, v_prediction or sample.",
    )


def consistency(denoise: Denoiser, schedule: Schedule) -> Denoiser:
    """Imposes a consistency model's boundary condition f(x, 0) = x on a denoiser (Luo et al. 2023, equation 9)."""

    def bounded(latents: mx.array, sigma: float) -> mx.array:
        time = schedule.timestep(sigma) * schedule.timestep_scaling
        size = math.hypot(time, _SIGMA_DATA)
        skip = (_SIGMA_DATA / size) ** 2 / math.hypot(sigma, 1.0)  # the condition is on variance-preserving latents
        return denoise(latents, sigma) * (time / size) + latents * skip

    return bounded
