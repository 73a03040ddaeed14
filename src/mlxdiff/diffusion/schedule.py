"""The noise levels of one run, and what the network is told at each of them.

All in double precision on the host: diffusers makes the same tables in fp32, whose smallest sigmas are off by 2e-5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from ..errors import RequestError
from ..request import SCHEDULES
from .scheduler_config import SPACINGS, SchedulerConfig

__all__ = ["Schedule", "SchedulerConfig", "make_schedule"]

_DPM = ("dpmpp_2m", "dpmpp_2m_sde")
# Samplers that diffusers writes for variance-preserving latents, x0 * sqrt(1 - s^2) + noise * s.
_VARIANCE_PRESERVING = ("ddim", "pndm", "lcm", *_DPM)
# Zero terminal SNR means infinite sigma. Euler's and DPM-Solver's classes stop at alpha_bar = 2^-24 (sigma 4096). DDIM
# and LCM do reach zero: at 2^-60 (sigma 1.07e9) what is neglected is 1e-9 of the latents, below fp32's rounding.
_TERMINAL_ALPHA_BAR = 2.0**-24
_TERMINAL_ALPHA_BAR_VP = 2.0**-60


@dataclass(frozen=True)
class Schedule:
    """One run's noise levels, in variance-exploding form: latents = x0 + sigma * noise.

    sigmas            n + 1 levels, descending. The last is 0, or the smallest of training where the checkpoint asks for
                      that (`set_alpha_to_one: false`, as SD 1.x does)
    timesteps         n numbers, what the network is told at sigmas[:-1]
    init_noise_sigma  unit noise times this is what the loop starts from, when it starts from noise alone
    signal_scale      final latents times this are what the VAE decodes (see `to_signal`)
    timestep_scaling  of the consistency sampler's boundary condition
    arrivals          n levels: where each step of DDIM and PLMS lands, to be read as sigmas[1:] (see `_strides`)
    departure         the level that PLMS' repeated first step is taken to start from
    """

    sampler: str
    prediction_type: str
    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]
    init_noise_sigma: float
    signal_scale: float = 1.0
    timestep_scaling: float = 10.0
    arrivals: tuple[float, ...] | None = None
    departure: float | None = None

    def timestep(self, sigma: float) -> float:
        """What the network is told at one of the schedule's own levels. Raises ValueError for any other."""
        return self.timesteps[self.sigmas.index(sigma, 0, len(self.timesteps))]

    def to_signal(self, latents: mx.array) -> mx.array:
        """The run's last latents as the VAE expects them.

        A variance-preserving sampler that ends above sigma 0 leaves latents that are x0 + sigma * noise here, where
        diffusers has the same divided by sqrt(1 + sigma^2), and decodes that.
        """
        return latents if self.signal_scale == 1.0 else latents * self.signal_scale


def make_schedule(
    config: SchedulerConfig, steps: int, schedule: str | None = None, strength: float | None = None
) -> Schedule:
    """The schedule of a run of `steps` steps.

    schedule   leading, linspace or trailing replaces the checkpoint's spacing of timesteps, and any ramp; karras,
               exponential or beta sets the ramp and keeps the spacing, which gives its ends. None is as in the config.
    strength   only the last int(steps * strength) steps are run, as diffusers' img2img does. PLMS warms up again after
               the cut, where diffusers repeats a timestep it has left behind.

    Raises RequestError when the steps, schedule or strength do not fit.
    """
    config = _with_schedule(config, schedule)
    if not 1 <= steps <= config.num_train_timesteps:
        raise RequestError(
            f"{steps} steps are asked for, and the model knows {config.num_train_timesteps} timesteps.",
            f"Ask for 1 to {config.num_train_timesteps} steps.",
        )
    table = _training_sigmas(config)
    timesteps = _lcm_timesteps(config, steps) if config.sampler == "lcm" else _spaced_timesteps(config, steps, table)
    sigmas = np.interp(timesteps, np.arange(len(table)), table)
    if config.ramp is not None:
        sigmas = _ramped(config, sigmas, table)
        timesteps = _timesteps_at(config, sigmas, table)
    if timesteps[0] > len(table) - 1 or np.any(np.diff(sigmas) >= 0):
        raise RequestError(
            f"{steps} steps are too many for the sampler {config.sampler} with this schedule.", "Ask for fewer steps."
        )
    last = 0.0 if config.final_sigma == "zero" else float(table[0])
    cut = _cut(len(timesteps), strength)
    arrivals, departure = None, None
    if config.sampler in ("ddim", "pndm") and config.ramp is None:
        arrivals, departure = _strides(config, timesteps[cut:], steps, table, last)
        last = arrivals[-1]
    keeps_variance = config.sampler in _VARIANCE_PRESERVING
    first = float(sigmas[0])
    return Schedule(
        sampler=config.sampler,
        prediction_type=config.prediction_type,
        sigmas=(*sigmas[cut:].tolist(), last),
        timesteps=tuple(timesteps[cut:].tolist()),
        # For Euler's and Heun's classes the spacing of the timesteps decides whether x0's own variance counts.
        init_noise_sigma=math.hypot(first, 1.0) if keeps_variance or config.timestep_spacing == "leading" else first,
        signal_scale=1 / math.hypot(last, 1.0) if keeps_variance else 1.0,
        timestep_scaling=config.timestep_scaling,
        arrivals=arrivals,
        departure=departure,
    )


def _strides(
    config: SchedulerConfig, timesteps: np.ndarray, steps: int, table: np.ndarray, last: float
) -> tuple[tuple[float, ...], float]:
    """Where DDIM and PLMS land, as diffusers' classes have it: always num_train_timesteps // steps further down.

    With uneven timesteps (linspace, or trailing where the steps do not divide) that is not the next timestep, and the
    network is told of a level slightly off. The same pictures as diffusers need the same slip.
    """
    stride = config.num_train_timesteps // steps
    places = np.arange(len(table))
    arrivals = [float(np.interp(t - stride, places, table)) if t >= stride else last for t in timesteps]
    again = timesteps[1] + stride if len(timesteps) > 1 else timesteps[0]
    return tuple(arrivals), float(np.interp(again, places, table))


def _with_schedule(config: SchedulerConfig, schedule: str | None) -> SchedulerConfig:
    if schedule is None:
        return config
    if schedule not in SCHEDULES:
        raise RequestError(f"There is no schedule {schedule!r}.", f"Choose one of {', '.join(SCHEDULES)}.")
    if config.sampler == "lcm":
        raise RequestError(
            "The lcm sampler takes its timesteps from the model's distillation.", "Leave the schedule option out."
        )
    if schedule in SPACINGS:
        return replace(config, timestep_spacing=schedule, ramp=None)
    return replace(config, ramp=schedule)


def _cut(steps: int, strength: float | None) -> int:
    """How many steps to leave out at the start."""
    if strength is None:
        return 0
    if not 0 <= strength <= 1:
        raise RequestError(f"The strength is {strength!r}.", "It is a number from 0 to 1.")
    kept = min(int(steps * strength), steps)
    if kept == 0:
        raise RequestError(
            f"Of {steps} steps, a strength of {strength:g} leaves none.", "Ask for more steps or a higher strength."
        )
    return steps - kept


def _training_sigmas(config: SchedulerConfig) -> np.ndarray:
    """(N,) ascending: sigma = sqrt((1 - alpha_bar) / alpha_bar) at each timestep of training."""
    alpha_bar = np.cumprod(1 - _betas(config))
    if config.rescale_betas_zero_snr:
        # Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed", Algorithm 1.
        signal = np.sqrt(alpha_bar)
        alpha_bar = ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])) ** 2
        reaches_zero = config.sampler in ("ddim", "lcm") and config.ramp is None
        alpha_bar[-1] = _TERMINAL_ALPHA_BAR_VP if reaches_zero else _TERMINAL_ALPHA_BAR
    return np.sqrt((1 - alpha_bar) / alpha_bar)


def _betas(config: SchedulerConfig) -> np.ndarray:
    n = config.num_train_timesteps
    if config.trained_betas is not None:
        return np.array(config.trained_betas)
    if config.beta_schedule == "linear":
        return np.linspace(config.beta_start, config.beta_end, n)
    if config.beta_schedule == "scaled_linear":
        return np.linspace(config.beta_start**0.5, config.beta_end**0.5, n) ** 2
    # squaredcos_cap_v2: Nichol and Dhariwal 2021, equation 17.
    alpha_bar = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


def _spaced_timesteps(config: SchedulerConfig, steps: int, table: np.ndarray) -> np.ndarray:
    """Descending timesteps (Lin et al. 2024, table 2), with the differences between diffusers' classes.

    Euler and Heun keep the fractions of linspace; DPM-Solver divides into one step more and leaves the last one out,
    and may skip the noisiest timesteps (`lambda_min_clipped`, where lambda = -log sigma). DDIM and PLMS go from each to
    the next of the list. diffusers' classes go back by N // steps instead, and so a little beside it where the spacing
    is uneven: linspace, or trailing with steps that do not divide N.
    """
    n = config.num_train_timesteps
    dpm = config.sampler in _DPM
    if dpm:
        n = max(1, n - int(np.sum(-np.log(table) < config.lambda_min_clipped)))
    if config.timestep_spacing == "trailing":
        timesteps = n - np.arange(steps) * (config.num_train_timesteps / steps)
        return np.round(timesteps[timesteps > 0]) - 1
    points = steps + 1 if dpm else steps
    if config.timestep_spacing == "leading":
        timesteps = np.arange(points) * (n // points) + float(config.steps_offset)
    else:
        timesteps = np.linspace(0, n - 1, points)
        if dpm or config.sampler in ("ddim", "pndm"):
            timesteps = np.round(timesteps)
    return timesteps[::-1][:steps]


def _lcm_timesteps(config: SchedulerConfig, steps: int) -> np.ndarray:
    """An even choice among the timesteps of the distillation (Luo et al. 2023, section 4.3)."""
    known = config.original_inference_steps
    if steps > known:
        raise RequestError(
            f"{steps} steps are asked for, and the model was distilled on {known}.", f"Ask for 1 to {known} steps."
        )
    distilled = np.arange(known, 0, -1) * (config.num_train_timesteps // known) - 1
    return distilled[np.arange(steps) * known // steps].astype(np.float64)


def _ramped(config: SchedulerConfig, sigmas: np.ndarray, table: np.ndarray) -> np.ndarray:
    """As many levels as `sigmas`, between the same ends, spaced by the config's ramp."""
    # DPM-Solver's class spans all of training, the others what the spacing covers.
    high, low = (table[-1], table[0]) if config.sampler in _DPM else (sigmas[0], sigmas[-1])
    high = high if config.sigma_max is None else config.sigma_max
    low = low if config.sigma_min is None else config.sigma_min
    ramp = np.linspace(0, 1, len(sigmas))
    if config.ramp == "karras":  # Karras et al. 2022, equation 5, rho = 7
        return (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    if config.ramp == "exponential":
        return np.exp(np.linspace(math.log(high), math.log(low), len(sigmas)))
    # Lee et al. 2024, "Beta Sampling is All You Need": quantiles of Beta(0.6, 0.6).
    return low + _beta_quantiles(1 - ramp, 0.6) * (high - low)


def _timesteps_at(config: SchedulerConfig, sigmas: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The timesteps of training, with fractions, whose log sigma is that of `sigmas`."""
    timesteps = np.interp(np.log(sigmas), np.log(table), np.arange(len(table)))
    if config.sampler not in _DPM:
        return timesteps
    # DPM-Solver's class hands integers to the network, rounded in one case and cut off in the others. A ramp's ends are
    # whole up to rounding errors, which must not decide (in diffusers they do, and 999 may become 998).
    rounds = config.ramp == "karras" and config.beta_schedule != "squaredcos_cap_v2"
    return np.round(timesteps) if rounds else np.floor(timesteps + 1e-6)


def _beta_quantiles(probabilities: np.ndarray, a: float) -> np.ndarray:
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
