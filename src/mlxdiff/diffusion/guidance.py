"""Wrappers that steer a denoiser."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.core as mx

from ..errors import RequestError
from .prediction import Denoiser


def classifier_free(denoise: Denoiser, guidance_scale: float | mx.array) -> Denoiser:
    """Classifier-free guidance (Ho and Salimans 2022, equation 6, in the form that is off at a scale of 1).

    `denoise` takes a doubled batch, [negative; positive] along the first axis; the result takes one of B. The scale is
    a number, or an array that broadcasts to (B, h, w, C).
    """

    def guided(latents: mx.array, sigma: float) -> mx.array:
        negative, positive = mx.split(denoise(mx.concatenate([latents, latents]), sigma), 2)
        return negative + (positive - negative) * guidance_scale

    return guided


def in_interval(guided: Denoiser, unguided: Denoiser, interval: tuple[float, float]) -> Denoiser:
    """Guidance where low < sigma <= high (Kynkäänniemi et al. 2024), and the prompt's own prediction elsewhere.

    `unguided` is what `guided` is at a scale of 1, without the negative half.
    """
    low, high = interval

    def denoise(latents: mx.array, sigma: float) -> mx.array:
        return (guided if low < sigma <= high else unguided)(latents, sigma)

    return denoise


def interval_of(sigmas: Sequence[float], start: float, end: float) -> tuple[float, float]:
    """The sigmas (low, high] at which the steps i of n begin for which start <= i / n < end.

    sigmas: n + 1 levels, descending. A bound that no step lies beyond is infinite. Raises RequestError for no step.
    """
    n = len(sigmas) - 1
    inside = [i for i in range(n) if start <= i / n < end]
    if not inside:
        raise RequestError(
            f"None of {n} steps begins between {start:g} and {end:g} of the run, where guidance is asked for.",
            "Widen the interval, or turn guidance off with a guidance_scale of 1.",
        )
    first, last = inside[0], inside[-1]
    return (-math.inf if last == n - 1 else sigmas[last + 1]), (math.inf if first == 0 else sigmas[first])
