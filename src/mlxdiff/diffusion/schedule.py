"""The noise levels of one run, and the timestep of each.

All in double precision on the host: diffusers makes the same tables in fp32, whose smallest sigmas are off by 2e-5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import mlx.core as mx
import numpy as np

from ..catalogue import SCHEDULES, find_schedule
from ..errors import RequestError
from .scheduler_config import SchedulerConfig
from .space import Space, VariancePreserving, training_sigmas

__all__ = ["Schedule", "SchedulerConfig", "check_strength", "custom_levels", "make_schedule"]

_SIGMA_DATA = 0.5  # of the consistency models' boundary condition


@dataclass(frozen=True)
class Schedule:
    """One run's noise levels, in variance-exploding form: latents = x0 + sigma * noise.

    sampler           the name of the sampler that they were made for
    space             what the network was trained on
    sigmas            n + 1 levels, descending. The last is 0, or the smallest of training where the checkpoint asks for
                      that (`set_alpha_to_one: false`, as SD 1.x does)
    timesteps         n numbers, the network's input for sigmas[:-1]
    init_noise_sigma  unit noise times this is what the loop starts from, when it starts from noise alone
    signal_scale      final latents times this are what the VAE decodes (see `end`)
    timestep_scaling  of the consistency sampler's boundary condition
    arrivals          n levels: where each step of DDIM and PLMS lands, to be read as sigmas[1:] (see `_strides`)
    departure         the level that PLMS' repeated first step is taken to start from
    rehearsal         the level at which PLMS asks the network a second time in its first step
    options           the sampler's options, as far as the checkpoint sets them: (name, value)
    planned           how many steps there were before image to image left some out
    path              smallest positive and largest level of the path that Brownian noise follows; None: this run's
    """

    sampler: str
    space: Space
    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]
    init_noise_sigma: float
    signal_scale: float = 1.0
    timestep_scaling: float = 10.0
    arrivals: tuple[float, ...] | None = None
    departure: float | None = None
    rehearsal: float | None = None
    options: tuple[tuple[str, Any], ...] = ()
    planned: int | None = None
    path: tuple[float, float] | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """Smallest positive and largest level between which Brownian noise is drawn."""
        return (min(sigma for sigma in self.sigmas if sigma > 0), self.sigmas[0]) if self.path is None else self.path

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    def timestep(self, sigma: float) -> float:
        """The timestep at sigma: the class's own number at the schedule's levels, else the space's."""
        if sigma in self.sigmas[: self.steps]:
            return self.timesteps[self.sigmas.index(sigma)]
        return self.space.timestep(sigma)

    def level(self, timestep: float) -> float:
        """The noise level of a timestep of training, between two of them interpolated. Of discrete schedules only."""
        training = self.space.training if isinstance(self.space, VariancePreserving) else None
        if training is None:
            raise ValueError("only a discrete schedule has timesteps of training")
        return _level(timestep, training_sigmas(training))

    def scale_input(self, latents: mx.array, sigma: float) -> mx.array:
        """The latents as the network knows them: of unit variance, or a mixture of x0 and noise."""
        return latents * mx.array(self.space.scale(sigma), dtype=mx.float32)

    def to_denoised(self, output: mx.array, latents: mx.array, sigma: float) -> mx.array:
        """x0 as the network's output says, fp32 (see `Space`)."""
        return self.space.to_denoised(output, latents, sigma)

    def to_output(self, denoised: mx.array, latents: mx.array, sigma: float) -> mx.array:
        """The inverse of `to_denoised`."""
        return self.space.to_output(denoised, latents, sigma)

    def start(self, noise: mx.array, picture: mx.array | None = None) -> mx.array:
        """What the loop starts from: unit noise alone, or on top of a picture's latents. All (B, h, w, C)."""
        return noise * self.init_noise_sigma if picture is None else picture + noise * self.sigmas[0]

    def end(self, latents: mx.array) -> mx.array:
        """The run's last latents as the VAE expects them.

        A variance-preserving sampler that ends above sigma 0 leaves latents that are x0 + sigma * noise here, where
        diffusers has the same divided by sqrt(1 + sigma^2), and decodes that.
        """
        return latents if self.signal_scale == 1.0 else latents * self.signal_scale

    def boundary(self, sigma: float) -> tuple[float, float]:
        """A consistency model's f(x, 0) = x: (skip, out), with f = out * denoised + skip * latents.

        Luo et al. 2023, equation 9; the condition is on variance-preserving latents.
        """
        time = self.timestep(sigma) * self.timestep_scaling
        size = math.hypot(time, _SIGMA_DATA)
        return (_SIGMA_DATA / size) ** 2 / math.hypot(sigma, 1.0), time / size


def make_schedule(
    config: SchedulerConfig,
    steps: int | None = None,
    schedule: str | None = None,
    strength: float | None = None,
    *,
    sigmas: Sequence[float] | None = None,
    span: float | None = None,
) -> Schedule:
    """The schedule of a run of `steps` steps. Schedules are kept: the same arguments give the same object.

    schedule   any name that `catalogue.find_schedule` knows. A spacing (leading, linspace, trailing) replaces the
               checkpoint's spacing of timesteps, and any ramp; a ramp (karras, ...) keeps the spacing, which gives its
               ends; any other is all of a run's levels, over all of training. None is as in the config
    strength   only the last int(steps * strength) steps are run, as diffusers' img2img does
    sigmas     noise levels instead of a schedule, descending, the last of them where the run ends; steps is then unset
               or one less than there are
    span       the steps are spread over this part of a consistency model's distillation, as diffusers'
               LatentConsistencyModelImg2ImgPipeline does with its strength

    Raises RequestError when these do not fit.
    """
    name = None if schedule is None else find_schedule(schedule).name
    levels = None if sigmas is None else custom_levels(sigmas, steps, name)
    if levels is None and steps is None:
        raise RequestError("Neither steps nor sigmas are given.", "Give one of the two.")
    count = len(levels) - 1 if levels is not None else steps or 0
    return _make_schedule(config, count, name, strength, levels, span)


@lru_cache(maxsize=64)
def _make_schedule(
    config: SchedulerConfig,
    steps: int,
    schedule: str | None,
    strength: float | None,
    levels: tuple[float, ...] | None,
    span: float | None,
) -> Schedule:
    config = _with_schedule(config, schedule)
    place = config.row.placement
    whole = schedule is not None and SCHEDULES[schedule].kind == "levels"
    if not 1 <= steps <= config.num_train_timesteps:
        raise RequestError(
            f"{steps} steps are asked for, and the model knows {config.num_train_timesteps} timesteps.",
            f"Ask for 1 to {config.num_train_timesteps} steps.",
        )
    if span is not None and not place.distilled:
        raise RequestError(
            f"The sampler {config.sampler} does not spread its steps over a part.", "Use the strength instead."
        )
    even = config.ramp is None and levels is None and not whole
    training = config.training(infinite=even and place.infinite)
    space = VariancePreserving(config.prediction_type, training)
    table = training_sigmas(training)
    last = 0.0 if config.final_sigma == "zero" else float(table[0])
    if whole:
        levels = tuple(SCHEDULES[str(schedule)].run(steps, table).tolist())
    if levels is not None:
        sigmas, last = np.array(levels[:-1]), levels[-1]
        timesteps = np.array([space.timestep(sigma) for sigma in sigmas])
    else:
        timesteps = _distilled(config, steps, span) if place.distilled else _spaced_timesteps(config, steps, table)
        sigmas = np.interp(timesteps, np.arange(len(table)), table)
        if config.ramp is not None:
            sigmas = _ramped(config, sigmas, table)
            timesteps = _timesteps_at(config, sigmas, table)
    if timesteps[0] > len(table) - 1 or np.any(np.diff(sigmas) >= 0):
        raise RequestError(
            f"{steps} steps are too many for the sampler {config.sampler} with this schedule.", "Ask for fewer steps."
        )
    first = _cut(len(timesteps), strength)
    rehearsal, again = None, 0
    order = list(range(first, len(timesteps)))
    if even and place.repeated and len(timesteps) > 1:
        order, again = _repeated(len(timesteps), first)
        rehearsal = float(sigmas[again])
    arrivals, departure = None, None
    if even and place.strided:
        arrivals = _strides(config, timesteps[order], steps, table, last)
        last = arrivals[-1]
        if rehearsal is not None:
            departure = _level(timesteps[again] + config.num_train_timesteps // steps, table)
            last = rehearsal if len(order) == 1 else last
    preserved = place.variance_preserving
    highest = float(sigmas[0])
    return Schedule(
        sampler=config.sampler,
        space=space,
        sigmas=(*sigmas[order].tolist(), last),
        timesteps=tuple(timesteps[order].tolist()),
        # For Euler's and Heun's classes the spacing of the timesteps decides whether x0's own variance counts.
        init_noise_sigma=math.hypot(highest, 1.0) if preserved or config.timestep_spacing == "leading" else highest,
        signal_scale=1 / math.hypot(last, 1.0) if preserved else 1.0,
        timestep_scaling=config.timestep_scaling,
        arrivals=arrivals,
        departure=departure,
        rehearsal=rehearsal,
        options=config.options,
        planned=len(timesteps),
    )


def custom_levels(sigmas: Sequence[float], steps: int | None, schedule: str | None) -> tuple[float, ...]:
    """Noise levels that the caller gives, checked. Raises RequestError."""
    levels = tuple(sigmas) if isinstance(sigmas, Sequence) and not isinstance(sigmas, str) else ()
    if len(levels) < 2 or not all(isinstance(s, int | float) and not isinstance(s, bool) for s in levels):
        raise RequestError(f"sigmas are {sigmas!r}.", "They are two numbers or more.")
    levels = tuple(float(sigma) for sigma in levels)
    if not all(math.isfinite(sigma) for sigma in levels) or levels[-1] < 0:
        raise RequestError("The sigmas are not all finite numbers from 0 up.", "Give noise levels such as 14.6, 2, 0.")
    for higher, lower in pairwise(levels):
        if lower >= higher:
            raise RequestError(f"The sigmas go from {higher:g} to {lower:g}.", "Each must be below the one before it.")
    if steps is not None and steps != len(levels) - 1:
        raise RequestError(
            f"{len(levels)} sigmas are {len(levels) - 1} steps, and {steps} are asked for.", "Leave the steps out."
        )
    if schedule is not None:
        raise RequestError("Both a schedule and sigmas are given.", "Leave one of them out.")
    return levels


def _cut(steps: int, strength: float | None) -> int:
    """How many steps image to image leaves out at the start. Raises RequestError where none are left."""
    if strength is None:
        return 0
    check_strength(strength)
    kept = min(int(steps * strength), steps)
    if kept == 0:
        raise RequestError(
            f"Of {steps} steps, a strength of {strength:g} leaves none.", "Ask for more steps or a higher strength."
        )
    return steps - kept


def check_strength(strength: float) -> None:
    if not 0 <= strength <= 1:
        raise RequestError(f"The strength is {strength!r}.", "It is a number from 0 to 1.")


def _repeated(n: int, first: int) -> tuple[list[int], int]:
    """Which of n >= 2 timesteps PLMS begins its steps at, and which it asks about a second time, after a cut.

    diffusers' class lists the second timestep twice, for the warm-up, and its img2img cuts this list: from a strength
    below 1 on it begins one timestep higher than the other classes, warms up on the next, and goes on from there as if
    it were one lower.
    """
    listed = [0, 1, *range(1, n)][first:]
    return [listed[0], *listed[2:]], listed[1]


def _strides(
    config: SchedulerConfig, timesteps: np.ndarray, steps: int, table: np.ndarray, last: float
) -> tuple[float, ...]:
    """Where DDIM and PLMS land, as diffusers' classes have it: always num_train_timesteps // steps further down.

    With uneven timesteps (linspace, or trailing where the steps do not divide) that is not the next timestep, and the
    network gets the timestep of a slightly different level. To give diffusers' pictures, so does mlxdiff.
    """
    stride = config.num_train_timesteps // steps
    return tuple(_level(t - stride, table) if t >= stride else last for t in timesteps)


def _level(timestep: float, table: np.ndarray) -> float:
    return float(np.interp(timestep, np.arange(len(table)), table))


def _with_schedule(config: SchedulerConfig, schedule: str | None) -> SchedulerConfig:
    if schedule is None:
        return config
    if config.row.placement.distilled:
        raise RequestError(
            f"The {config.sampler} sampler takes its timesteps from the model's distillation.",
            "Leave the schedule option out.",
        )
    kind = SCHEDULES[schedule].kind
    if kind == "levels":
        return replace(config, ramp=None)
    return (
        replace(config, timestep_spacing=schedule, ramp=None) if kind == "spacing" else replace(config, ramp=schedule)
    )


def _spaced_timesteps(config: SchedulerConfig, steps: int, table: np.ndarray) -> np.ndarray:
    """Descending timesteps (Lin et al. 2024, table 2), with the differences between diffusers' classes (`Placement`).

    DPM-Solver's class may skip the noisiest timesteps (`lambda_min_clipped`, where lambda = -log sigma).
    """
    place = config.row.placement
    n = max(1, config.num_train_timesteps - int(np.sum(-np.log(table) < config.lambda_min_clipped)))
    if config.timestep_spacing == "trailing":
        timesteps = n - np.arange(steps) * (config.num_train_timesteps / steps)
        return np.round(timesteps[timesteps > 0]) - 1
    points = steps + 1 if place.spare else steps
    if config.timestep_spacing == "leading":
        timesteps = np.arange(points) * (n // points) + float(config.steps_offset)
    else:
        timesteps = np.linspace(0, n - 1, points)
        if place.whole:
            timesteps = np.round(timesteps)
    return timesteps[::-1][:steps]


def _distilled(config: SchedulerConfig, steps: int, span: float | None) -> np.ndarray:
    """An even choice among the timesteps of the distillation (Luo et al. 2023, section 4.3), or of its cleaner part."""
    known = config.original_inference_steps
    if steps > known:
        raise RequestError(
            f"{steps} steps are asked for, and the model was distilled on {known}.", f"Ask for 1 to {known} steps."
        )
    part = known
    if span is not None:
        check_strength(span)
        part = int(known * span)
        if steps > part:
            raise RequestError(
                f"A strength of {span:g} leaves {part} of the {known} timesteps that the model was distilled on, and "
                f"{steps} steps are asked for.",
                "Ask for fewer steps or a higher strength.",
            )
    distilled = np.arange(part, 0, -1) * (config.num_train_timesteps // known) - 1
    return distilled[np.arange(steps) * part // steps].astype(np.float64)


def _ramped(config: SchedulerConfig, sigmas: np.ndarray, table: np.ndarray) -> np.ndarray:
    """As many levels as `sigmas`, between the same ends, spaced by the config's ramp."""
    full = config.row.placement.full_ramp
    high, low = (table[-1], table[0]) if full else (sigmas[0], sigmas[-1])
    high = high if config.sigma_max is None else config.sigma_max
    low = low if config.sigma_min is None else config.sigma_min
    return SCHEDULES[str(config.ramp)].run(len(sigmas), high, low)


def _timesteps_at(config: SchedulerConfig, sigmas: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The timesteps of training, with fractions, whose log sigma is that of `sigmas`, made whole as the class does."""
    timesteps = np.interp(np.log(sigmas), np.log(table), np.arange(len(table)))
    rule = config.row.placement.ramp_timesteps
    if rule == "fraction" or (rule == "whole_karras" and config.ramp != "karras"):
        return timesteps
    # DPM-Solver's class hands integers to the network, rounded in one case and cut off in the others. A ramp's ends are
    # whole up to rounding errors, which must not decide (in diffusers they do, and 999 may become 998).
    cosine = config.row.placement.cosine_cut and config.beta_schedule == "squaredcos_cap_v2"
    rounds = config.ramp == "karras" and not cosine
    return np.round(timesteps) if rounds else np.floor(timesteps + 1e-6)
