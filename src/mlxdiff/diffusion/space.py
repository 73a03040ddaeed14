"""How a network was trained, as a value: what it is given at a noise level, and how its output becomes x0.

A space translates between variance-exploding latents, x0 + sigma * noise, in which samplers and guidance work, and
those that the network knows. There are two: variance-preserving latents (Stable Diffusion 1, 2, XL), and flow
matching (Stable Diffusion 3, FLUX). Both ask the network about latents scaled by a number that depends on sigma alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import mlx.core as mx
import numpy as np

from ..errors import UnsupportedError

HUGE_SIGMA = 2.0**30  # stands for infinity: what is neglected is 1e-9 of the latents, below fp32's rounding


class Space(Protocol):
    """Latents, outputs and denoised are (B, h, w, C), results fp32; sigma is of variance-exploding latents."""

    def timestep(self, sigma: float) -> float:
        """The timestep at sigma, an input of the network."""
        ...

    def scale(self, sigma: float) -> float:
        """Variance-exploding latents times this are the network's."""
        ...

    def to_denoised(self, output: mx.array, latents: mx.array, sigma: float) -> mx.array:
        """x0, as the network's output at `latents` says."""
        ...

    def to_output(self, denoised: mx.array, latents: mx.array, sigma: float) -> mx.array:
        """The inverse: what a network says whose prediction of x0 is `denoised`."""
        ...


@dataclass(frozen=True)
class Training:
    """The noise levels that a variance-preserving network was trained on, under diffusers' names.

    terminal_alpha_bar  rescales to zero terminal SNR (Lin et al. 2024, Algorithm 1), with this instead of zero; None
                        rescales nothing
    """

    num_train_timesteps: int = 1000
    beta_schedule: str = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    trained_betas: tuple[float, ...] | None = None
    terminal_alpha_bar: float | None = None


@lru_cache(maxsize=16)
def training_sigmas(training: Training) -> np.ndarray:
    """(N,) ascending, read-only: sigma = sqrt((1 - alpha_bar) / alpha_bar) at each timestep of training."""
    alpha_bar = np.cumprod(1 - _betas(training))
    if training.terminal_alpha_bar is not None:
        signal = np.sqrt(alpha_bar)
        alpha_bar = ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])) ** 2
        alpha_bar[-1] = training.terminal_alpha_bar
    sigmas = np.sqrt((1 - alpha_bar) / alpha_bar)
    sigmas.flags.writeable = False
    return sigmas


def _betas(training: Training) -> np.ndarray:
    n = training.num_train_timesteps
    if training.trained_betas is not None:
        return np.array(training.trained_betas)
    if training.beta_schedule == "linear":
        return np.linspace(training.beta_start, training.beta_end, n)
    if training.beta_schedule == "scaled_linear":
        return np.linspace(training.beta_start**0.5, training.beta_end**0.5, n) ** 2
    # squaredcos_cap_v2: Nichol and Dhariwal 2021, equation 17.
    alpha_bar = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


@dataclass(frozen=True)
class VariancePreserving:
    """A network for z = alpha * x0 + s * noise with alpha^2 + s^2 = 1, on discrete timesteps.

    With sigma = s / alpha, z is latents / sqrt(sigma^2 + 1). Outputs: epsilon is the noise; v_prediction is alpha *
    noise - s * x0 (Salimans and Ho 2022, appendix D); sample is x0. Another type raises UnsupportedError.
    """

    prediction_type: str
    training: Training = Training()

    def __post_init__(self) -> None:
        if self.prediction_type not in ("epsilon", "v_prediction", "sample"):
            raise UnsupportedError(
                f"The prediction type {self.prediction_type!r} is not implemented.",
                "Use a checkpoint with epsilon, v_prediction or sample.",
            )

    def timestep(self, sigma: float) -> float:
        """With its fraction: interpolated in log sigma between the timesteps of training, and at most the last."""
        table = training_sigmas(self.training)
        # np.log, so that a level of training gives a whole timestep
        return float(np.interp(np.log(max(sigma, float(table[0]))), _log_sigmas(self.training), np.arange(len(table))))

    def scale(self, sigma: float) -> float:
        return 1 / math.hypot(sigma, 1.0)

    def to_denoised(self, output: mx.array, latents: mx.array, sigma: float) -> mx.array:
        output = output.astype(mx.float32)
        if self.prediction_type == "epsilon":
            return latents - output * sigma
        if self.prediction_type == "v_prediction":
            return latents / (sigma * sigma + 1) - output * (sigma / math.hypot(sigma, 1.0))
        return output

    def to_output(self, denoised: mx.array, latents: mx.array, sigma: float) -> mx.array:
        if self.prediction_type == "epsilon":
            return (latents - denoised) / sigma
        if self.prediction_type == "v_prediction":
            return (latents / (sigma * sigma + 1) - denoised) * (math.hypot(sigma, 1.0) / sigma)
        return denoised


@lru_cache(maxsize=16)
def _log_sigmas(training: Training) -> np.ndarray:
    return np.log(training_sigmas(training))


@dataclass(frozen=True)
class FlowMatching:
    """A network for z = (1 - s) * x0 + s * noise that predicts noise - x0 (Lipman et al. 2023; Esser et al. 2024).

    With sigma = s / (1 - s), z is latents / (1 + sigma), and Euler's step in sigma is Euler's step in s. The network's
    timestep is num_train_timesteps * s.
    """

    num_train_timesteps: int = 1000

    def timestep(self, sigma: float) -> float:
        return self.num_train_timesteps * to_flow(sigma)

    def scale(self, sigma: float) -> float:
        return 1 / (1 + sigma)

    def to_denoised(self, output: mx.array, latents: mx.array, sigma: float) -> mx.array:
        return latents * self.scale(sigma) - output.astype(mx.float32) * to_flow(sigma)

    def to_output(self, denoised: mx.array, latents: mx.array, sigma: float) -> mx.array:
        return (latents * self.scale(sigma) - denoised) * ((1 + sigma) / sigma)


def to_flow(sigma: float) -> float:
    """The share of noise s in flow matching's latents, of a level of variance-exploding ones."""
    return 1.0 if sigma >= HUGE_SIGMA else sigma / (1 + sigma)


def from_flow(s: float) -> float:
    """The inverse: s / (1 - s), at most HUGE_SIGMA."""
    return HUGE_SIGMA if s >= 1 else min(s / (1 - s), HUGE_SIGMA)
