"""Wrappers that steer a denoiser."""

from __future__ import annotations

import mlx.core as mx

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
