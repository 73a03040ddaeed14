"""What several samplers share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.core as mx

INFINITE = 2.0**29
"""From such a level on, latents are noise alone, and slopes cannot be averaged: over 2^30, 1e-7 of a slope is 100.

Flow matching begins there, and a method of second order takes Euler's step then, which is exact in the limit.
"""


def rescale_noise(latents: mx.array, denoised: mx.array, ratio: float) -> mx.array:
    """Shrinks the noise in latents by `ratio`, which is Euler's step from sigma to ratio * sigma.

    Written so that it does not cancel: from sigma = 1e9, latents + slope * (sigma_next - sigma) would keep no digit.
    """
    return denoised + (latents - denoised) * ratio


def read_as(latents: mx.array, sigma: float, other: float) -> mx.array:
    """Latents of level `sigma` whose variance-preserving form is taken to be of level `other`."""
    return latents if sigma == other else latents * (math.hypot(other, 1.0) / math.hypot(sigma, 1.0))


def ancestral_split(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """A step of ancestral sampling from sigma to sigma_next: (ratio, up) (Song et al. 2021, score SDE, appendix F).

    Noise is shrunk by `ratio`, to a level below sigma_next, and fresh noise of level `up` is added. At eta = 0 the
    ratio is sigma_next / sigma and nothing is added.
    """
    ratio = sigma_next / sigma
    up = min(sigma_next, eta * sigma_next * math.sqrt(1 - ratio * ratio))
    # Not sqrt(sigma_next^2 - up^2) / sigma, which loses digits where almost all of the noise is renewed.
    return ratio * math.sqrt(max(0.0, 1 - eta * eta + (eta * ratio) ** 2)), up


def log_step(sigma: float, sigma_next: float) -> float:
    """The length of a step in lambda = -log sigma; infinite to sigma 0."""
    return math.inf if sigma_next == 0 else math.log(sigma / sigma_next)


def lookahead(sigmas: Sequence[float], i: int) -> float:
    """Half a step in log sigma from level i, in units of the step before: how far the line through D is followed."""
    return math.log(sigmas[i] / sigmas[i + 1]) / (2 * math.log(sigmas[i - 1] / sigmas[i]))
