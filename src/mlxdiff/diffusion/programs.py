"""Schedules as A1111 and ComfyUI make them, which differ from diffusers' in more than the formula.

                     A1111                                   ComfyUI
    schedule         the sampler's `automatic`               uniform, which it calls normal
    a ramp's ends    of training                             of training
    last level > 0   left out for some samplers (`discards_penultimate` of their rows)
    timesteps        with their fraction                     the nearest of training
    first noise      times sigma                             times sqrt(sigma^2 + 1), from the highest level on
    strength         int(strength * steps) + 1 of the steps  all of the steps, of int(steps / strength)
    zero terminal    stops at alpha_bar = 4.897e-8, sigma 4518, in both

A1111 runs DDIM, PLMS and UniPC on latents of unit variance, on levels of their own (`a1111_levels` of their rows), and
ends above 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np

from ..catalogue import SCHEDULES, find_schedule
from ..errors import RequestError
from .schedule import Schedule, check_strength, custom_levels
from .scheduler_config import SchedulerConfig
from .space import VariancePreserving, training_sigmas

_TERMINAL_ALPHA_BAR = 4.8973451890853435e-08
PROGRAMS = ("a1111", "comfyui")
MAX_PLANNED = 100_000
"""Steps of a schedule of which only the last are run: at the lowest strength of ComfyUI's own, 0.01, those of 1,000."""


@dataclass(frozen=True)
class _Nearest(VariancePreserving):
    """Timesteps are the nearest of training, in log sigma."""

    def timestep(self, sigma: float) -> float:
        logs = np.log(training_sigmas(self.training))
        return float(np.argmin(np.abs(np.log(max(sigma, 1e-10)) - logs)))


def program_schedule(
    program: str,
    config: SchedulerConfig,
    steps: int | None = None,
    schedule: str | None = None,
    strength: float | None = None,
    *,
    sigmas: Sequence[float] | None = None,
) -> Schedule:
    """`schedule.make_schedule` as a1111 or comfyui makes it. Kept, and refused with a RequestError, as there."""
    if program not in PROGRAMS:
        raise RequestError(f"There is no program {program!r}.", f"Choose one of {', '.join(PROGRAMS)}.")
    name = None if schedule is None else find_schedule(schedule).name
    levels = None if sigmas is None else custom_levels(sigmas, steps, name)
    if levels is None and steps is None:
        raise RequestError("Neither steps nor sigmas are given.", "Give one of the two.")
    return _schedule(program, config, len(levels) - 1 if levels is not None else steps or 0, name, strength, levels)


@lru_cache(maxsize=64)
def _schedule(
    program: str,
    config: SchedulerConfig,
    steps: int,
    schedule: str | None,
    strength: float | None,
    levels: tuple[float, ...] | None,
) -> Schedule:
    if not 1 <= steps <= config.num_train_timesteps:
        raise RequestError(
            f"{steps} steps are asked for, and the model knows {config.num_train_timesteps} timesteps.",
            f"Ask for 1 to {config.num_train_timesteps} steps.",
        )
    training = config.training(infinite=False)
    if training.terminal_alpha_bar is not None:
        training = replace(training, terminal_alpha_bar=_TERMINAL_ALPHA_BAR)
    comfyui = program == "comfyui"
    space = (_Nearest if comfyui else VariancePreserving)(config.prediction_type, training)
    table = training_sigmas(training)
    own = None if comfyui else config.row.run_a1111_levels
    preserved = own is not None
    total = steps
    if strength is not None:
        check_strength(strength)
        if comfyui and steps > MAX_PLANNED * strength > 0:
            raise RequestError(
                f"{steps} steps at a strength of {strength:g} are the last of more than {MAX_PLANNED:,}.",
                "Ask for a higher strength, or for fewer steps.",
            )
        if comfyui and strength > 0:
            total = int(steps / strength) if strength < 0.9999 else steps
    if levels is None and own is not None:
        levels = tuple(own(total, table).tolist())
        if len(levels) < 2:  # it leaves out the first step of those asked for
            raise RequestError(f"Of {steps} steps, A1111's {config.sampler} runs none.", "Ask for more steps.")
    elif levels is None:
        levels = _levels(config, total, schedule, table, program)
    path = None if comfyui else (min(level for level in levels if level > 0), levels[0])  # A1111's is never cut
    if strength is not None:
        kept = steps if comfyui else min(int(strength * steps), steps - 1) + 1
        if comfyui and strength == 0:
            raise RequestError(f"Of {steps} steps, a strength of 0 leaves none.", "Ask for a higher strength.")
        levels = levels[-(kept + 1) :]
    first, last = levels[0], levels[-1]
    full = first >= table[-1] * (1 - 1e-5)
    return Schedule(
        sampler=config.sampler,
        space=space,
        sigmas=tuple(levels),
        timesteps=tuple(space.timestep(sigma) for sigma in levels[:-1]),
        init_noise_sigma=math.hypot(first, 1.0) if preserved or (comfyui and full) else first,
        signal_scale=1 / math.hypot(last, 1.0) if preserved else 1.0,
        timestep_scaling=config.timestep_scaling,
        planned=total,
        path=path,
    )


def _levels(
    config: SchedulerConfig, steps: int, schedule: str | None, table: np.ndarray, program: str
) -> tuple[float, ...]:
    """steps + 1 levels, or as many as the schedule gives."""
    row, comfyui = config.row, program == "comfyui"
    if schedule is None:
        schedule = "uniform" if comfyui or row.automatic is None else row.automatic
    discards = program in row.discards_penultimate
    count = steps + 1 if discards else steps
    chosen = SCHEDULES[schedule]
    if chosen.kind == "spacing":
        raise RequestError(
            f"The schedule {schedule} is diffusers', and {program}'s picture is asked for.",
            "Choose another, such as uniform.",
        )
    function, whole = chosen.run_of(program)
    found = function(count, table) if whole else [*function(count, float(table[-1]), float(table[0])), 0.0]
    levels = [float(level) for level in found]
    if discards and len(levels) > 2:
        del levels[-2]
    if any(not lower < higher for higher, lower in pairwise(levels)):
        raise RequestError(f"{steps} steps are too many for the schedule {schedule}.", "Ask for fewer steps.")
    return tuple(levels)
