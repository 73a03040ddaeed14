"""The noise levels of a flow-matching run (Stable Diffusion 3, FLUX), as diffusers' FlowMatchEulerDiscreteScheduler.

Levels here are s, the share of noise in z = (1 - s) * x0 + s * noise, until the schedule turns them into those of
variance-exploding latents, s / (1 - s).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from ..catalogue import SAMPLERS, SCHEDULES, Sampler, find_sampler, find_schedule
from ..errors import CheckpointError, RequestError, UnsupportedError
from .config_values import ConfigValues
from .schedule import Schedule, check_strength, custom_levels
from .space import FlowMatching, from_flow

_MOST_TIMESTEPS = 100_000


@dataclass(frozen=True)
class FlowConfig:
    """What scheduler_config.json says, under diffusers' names.

    shift        s becomes shift * s / (1 + (shift - 1) * s): more steps where there is more noise
    use_dynamic_shifting  the shift is exp(mu), or mu where time_shift_type is linear, and mu depends on the size (`mu`)
    shift_terminal  the last level above 0, to which the schedule is stretched; None leaves it
    """

    sampler: str = "euler"
    num_train_timesteps: int = 1000
    shift: float = 1.0
    use_dynamic_shifting: bool = False
    base_shift: float = 0.5
    max_shift: float = 1.15
    base_image_seq_len: int = 256
    max_image_seq_len: int = 4096
    shift_terminal: float | None = None
    time_shift_type: str = "exponential"
    ramp: str | None = None

    @property
    def row(self) -> Sampler:
        return SAMPLERS[self.sampler]

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any], sampler: str | None = None) -> FlowConfig:
        """Reads the JSON object of the file; Euler's method unless `sampler` names another.

        Raises RequestError for an unknown sampler or one that flow matching has no use for, UnsupportedError for a
        setting that is not implemented, and CheckpointError for a value that makes no sense.
        """
        row = SAMPLERS["euler"] if sampler is None else find_sampler(sampler)
        if row.placement.distilled or row.placement.repeated or row.own_levels:
            raise RequestError(
                f"The sampler {row.name} is made for discrete timesteps, and this model was trained by flow matching.",
                "Choose another, such as euler.",
            )
        given = {key: value for key, value in mapping.items() if value is not None}
        for key in ("invert_sigmas", "stochastic_sampling"):
            if given.get(key, False) is not False:
                raise UnsupportedError(
                    f"The scheduler's {key} is {given[key]!r}, which is not implemented.",
                    "Use a checkpoint of Stable Diffusion or FLUX.",
                )
        values = ConfigValues(given)
        terminal = values.optional_number("shift_terminal") if given.get("shift_terminal") else None
        if terminal is not None and terminal >= 1:
            raise CheckpointError(f"The scheduler's shift_terminal is {terminal:g}.", "Download the checkpoint again.")
        shortest = values.whole("base_image_seq_len", 256, low=1, high=2**31)
        longest = values.whole("max_image_seq_len", 4096, low=1, high=2**31)
        if shortest == longest:
            raise CheckpointError(
                f"The scheduler's base_image_seq_len and max_image_seq_len are both {longest}.",
                "Download the checkpoint again.",
            )
        return cls(
            sampler=row.name,
            num_train_timesteps=values.whole("num_train_timesteps", 1000, low=1, high=_MOST_TIMESTEPS),
            shift=values.number("shift", 1.0, low=1e-6, high=1e6),
            use_dynamic_shifting=values.truth("use_dynamic_shifting"),
            base_shift=values.number("base_shift", 0.5, low=-100, high=100),
            max_shift=values.number("max_shift", 1.15, low=-100, high=100),
            base_image_seq_len=shortest,
            max_image_seq_len=longest,
            shift_terminal=terminal,
            time_shift_type=values.choice("time_shift_type", ("exponential", "linear"), "exponential"),
            ramp=values.ramp(),
        )

    def mu(self, tokens: int) -> float:
        """The shift of a picture of so many tokens (patches of latents): a line through the config's two points.

        Stable Diffusion 3's and FLUX's pipelines, `calculate_shift`.
        """
        slope = (self.max_shift - self.base_shift) / (self.max_image_seq_len - self.base_image_seq_len)
        return tokens * slope + self.base_shift - slope * self.base_image_seq_len


def make_flow_schedule(
    config: FlowConfig,
    steps: int | None = None,
    schedule: str | None = None,
    strength: float | None = None,
    *,
    sigmas: Sequence[float] | None = None,
    mu: float | None = None,
    even: bool = False,
) -> Schedule:
    """The schedule of a flow-matching run of `steps` steps.

    schedule  a ramp between the ends of the checkpoint's own levels; None is as in the config
    strength  only the last steps * strength steps, rounded up, are run, as in Stable Diffusion 3's img2img
    sigmas    levels s of 0 to 1 instead of a schedule, descending, the last of them where the run ends. They are used
              as they are, without any shift
    mu        the shift, where the config has it depend on the size (`FlowConfig.mu`)
    even      before the shift, levels are 1, 1 - 1/n, ..., 1/n, as FLUX's pipelines ask; else they end at the smallest
              of training, as Stable Diffusion 3's do

    Raises RequestError when these do not fit.
    """
    name = None if schedule is None else find_schedule(schedule).name
    levels = None if sigmas is None else custom_levels(sigmas, steps, name)
    if levels is not None and levels[0] > 1:
        raise RequestError(f"The sigmas begin at {levels[0]:g}.", "Of a flow-matching model they are at most 1.")
    if levels is None and steps is None:
        raise RequestError("Neither steps nor sigmas are given.", "Give one of the two.")
    if config.use_dynamic_shifting and mu is None and levels is None:
        raise RequestError("This model's schedule depends on the size, and no mu is given.", "Give FlowConfig.mu.")
    if name is not None:
        if SCHEDULES[name].kind == "spacing":
            raise RequestError(
                f"The schedule {name} spaces discrete timesteps, and this model was trained by flow matching.",
                "Leave the schedule out, or choose a ramp such as karras.",
            )
        config = replace(config, ramp=name)
    return _make(config, len(levels) - 1 if levels is not None else steps or 0, strength, levels, mu, even)


@lru_cache(maxsize=64)
def _make(
    config: FlowConfig,
    steps: int,
    strength: float | None,
    levels: tuple[float, ...] | None,
    mu: float | None,
    even: bool,
) -> Schedule:
    if not 1 <= steps <= config.num_train_timesteps:
        raise RequestError(
            f"{steps} steps are asked for, and the model knows {config.num_train_timesteps} timesteps.",
            f"Ask for 1 to {config.num_train_timesteps} steps.",
        )
    if levels is None:
        levels = (*_levels(config, steps, mu, even).tolist(), 0.0)
    first = 0
    if strength is not None:
        check_strength(strength)
        first = int(max(steps - min(steps * strength, steps), 0))  # not as discrete schedules round
        if first == steps:
            raise RequestError(
                f"Of {steps} steps, a strength of {strength:g} leaves none.", "Ask for more steps or a higher strength."
            )
    levels = levels[first:]
    exploding = tuple(from_flow(s) for s in levels)
    return Schedule(
        sampler=config.sampler,
        space=FlowMatching(config.num_train_timesteps),
        sigmas=exploding,
        timesteps=tuple(config.num_train_timesteps * s for s in levels[:-1]),
        # At the first level the latents are s * noise; from s = 1 on, nothing else.
        init_noise_sigma=exploding[0],
        signal_scale=1 / (1 + exploding[-1]),
    )


def _levels(config: FlowConfig, steps: int, mu: float | None, even: bool) -> np.ndarray:
    """(steps,) descending: shifted, stretched to the terminal, ramped, in diffusers' order."""
    lowest = 1 / config.num_train_timesteps
    if even:
        lowest = 1 / steps
    elif not config.use_dynamic_shifting:
        lowest = _shifted(lowest, config.shift)  # diffusers shifts the ends of training, and then all levels again
    levels = np.linspace(1.0, lowest, steps)
    if config.use_dynamic_shifting and mu is not None:
        levels = _shifted(levels, math.exp(mu) if config.time_shift_type == "exponential" else mu)
    else:
        levels = _shifted(levels, config.shift)
    if config.shift_terminal is not None and levels[-1] < 1:
        levels = 1 - (1 - levels) * (1 - config.shift_terminal) / (1 - levels[-1])
    if config.ramp is not None:
        levels = SCHEDULES[config.ramp].run(steps, levels[0], levels[-1])
    return levels


def _shifted(levels: Any, shift: float) -> Any:
    return shift * levels / (1 + (shift - 1) * levels)
