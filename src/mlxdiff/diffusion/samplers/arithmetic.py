"""What several samplers share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.core as mx

from ..step import Noise

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


def churned(
    latents: mx.array, sigma: float, n: int, noise: Noise, churn: float, low: float, high: float, s_noise: float
) -> tuple[mx.array, float]:
    """Latents raised to a higher level by fresh noise (Karras et al. 2022, Algorithm 2), and that level.

    churn: S_churn, shared out over the n steps; low, high: the levels between which it is done; s_noise: S_noise.
    """
    if churn <= 0 or not low <= sigma <= high:
        return latents, sigma
    raised = sigma * (1 + min(churn / n, math.sqrt(2) - 1))
    return latents + noise(sigma, raised) * (s_noise * math.sqrt(raised * raised - sigma * sigma)), raised


def with_noise(latents: mx.array, noise: Noise, sigma: float, sigma_next: float, level: float) -> mx.array:
    """Latents with noise of `level` added; at level 0 none is drawn."""
    return latents + noise(sigma, sigma_next) * level if level > 0 else latents
