"""Ramps: n noise levels between two ends, (n,) descending, spaced by a formula."""

from __future__ import annotations

import math

import numpy as np


def karras(n: int, high: float, low: float) -> np.ndarray:
    """Karras et al. 2022, equation 5, rho = 7."""
    ramp = np.linspace(0, 1, n)
    return (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7


def exponential(n: int, high: float, low: float) -> np.ndarray:
    """Evenly in log sigma."""
    return np.exp(np.linspace(math.log(high), math.log(low), n))


def polyexponential(n: int, high: float, low: float, rho: float = 1.0) -> np.ndarray:
    """A power of the way in log sigma (k-diffusion); with rho = 1 it is `exponential`."""
    return np.exp(np.linspace(1, 0, n) ** rho * (math.log(high) - math.log(low)) + math.log(low))


def beta(n: int, high: float, low: float) -> np.ndarray:
    """Quantiles of Beta(0.6, 0.6) (Lee et al. 2024, "Beta Sampling is All You Need")."""
    return low + beta_quantiles(1 - np.linspace(0, 1, n), 0.6) * (high - low)


def beta_quantiles(probabilities: np.ndarray, a: float) -> np.ndarray:
    """Quantiles of the distribution Beta(a, a), which is symmetric about 1/2: bisection of its series below that."""
    below = np.minimum(probabilities, 1 - probabilities)
    # B(x; a, a) = x^a * sum over k of (1 - a)_k / (k! (a + k)) x^k (DLMF 8.17.7); at x <= 1/2 60 terms are exact.
    k = np.arange(60)
    weights = np.cumprod(np.concatenate([[1.0], (k[1:] - a) / k[1:]])) / (a + k)
    mass = below * math.gamma(a) ** 2 / math.gamma(2 * a)
    low, high = np.zeros_like(below), np.full_like(below, 0.5)
    for _ in range(100):
        middle = (low + high) / 2
        under = middle**a * (middle[:, None] ** k @ weights) < mass
        low, high = np.where(under, middle, low), np.where(under, high, middle)
    return np.where(probabilities < 0.5, high, 1 - high)
