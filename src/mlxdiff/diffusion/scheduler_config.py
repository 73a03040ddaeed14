"""What a checkpoint's scheduler_config.json says, read for the sampler that will be used.

A file is written for one diffusers class, and each class has its own defaults. Another sampler reads the same file with
the defaults of its own class, and skips what that class does not know, as diffusers' `from_config` does. That includes
`rescale_betas_zero_snr` for `heun` and `pndm`: they average slopes, and over a first step from infinite noise such an
average blows up.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..catalogue import SAMPLERS, SCHEDULES, Sampler, find_sampler, find_scheduler_class
from ..errors import CheckpointError, MlxdiffWarning, UnsupportedError
from .config_values import ConfigValues
from .space import Training

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
SPACINGS = tuple(name for name, row in SCHEDULES.items() if row.kind == "spacing")
_MOST_TIMESTEPS = 100_000  # tables of this length are made in memory; real checkpoints have 1000

# Zero terminal SNR means infinite sigma. Euler's and DPM-Solver's classes stop at alpha_bar = 2^-24 (sigma 4096). DDIM
# and LCM do reach zero: at 2^-60 (sigma 1.07e9) what is neglected is 1e-9 of the latents, below fp32's rounding.
_TERMINAL_ALPHA_BAR = 2.0**-24
_INFINITE_ALPHA_BAR = 2.0**-60

# Keys that every class reads with the same default, or reads from another class's file.
_SHARED = {"prediction_type", "num_train_timesteps", "trained_betas", "steps_offset", "sigma_min", "sigma_max"}


@dataclass(frozen=True)
class SchedulerConfig:
    """The settings of one sampler on one checkpoint, under diffusers' names where there is one.

    ramp            karras, exponential or beta instead of sigmas at evenly spaced timesteps; None for those
    final_sigma     "zero", or "sigma_min" to stop at the smallest sigma of training
    """

    sampler: str
    prediction_type: str = "epsilon"
    num_train_timesteps: int = 1000
    beta_schedule: str = "linear"
    beta_start: float = 0.0001
    beta_end: float = 0.02
    trained_betas: tuple[float, ...] | None = None
    rescale_betas_zero_snr: bool = False
    timestep_spacing: str = "leading"
    steps_offset: int = 0
    ramp: str | None = None
    sigma_min: float | None = None
    sigma_max: float | None = None
    final_sigma: str = "zero"
    lambda_min_clipped: float = -math.inf
    original_inference_steps: int = 50
    timestep_scaling: float = 10.0
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def row(self) -> Sampler:
        return SAMPLERS[self.sampler]

    def training(self, *, infinite: bool) -> Training:
        """The noise levels of training; with zero terminal SNR, whether the last is infinite or stops short of it."""
        terminal = _INFINITE_ALPHA_BAR if infinite else _TERMINAL_ALPHA_BAR
        return Training(
            self.num_train_timesteps,
            self.beta_schedule,
            self.beta_start,
            self.beta_end,
            self.trained_betas,
            terminal if self.rescale_betas_zero_snr else None,
        )

    @classmethod
    def from_dict(
        cls, mapping: Mapping[str, Any], sampler: str | None = None, class_name: str | None = None
    ) -> SchedulerConfig:
        """Reads the JSON object of the file for `sampler`, or for the sampler of the class that the file is for.

        sampler     any name that `catalogue.find_sampler` knows
        class_name  the class that model_index.json names, which counts more than the file's own `_class_name`

        Where the class's solver is not here, the nearest is taken, with a MlxdiffWarning. Raises RequestError for an
        unknown sampler, UnsupportedError for a setting that is not implemented, and CheckpointError for a value that
        makes no sense.
        """
        if not isinstance(mapping, Mapping):
            raise CheckpointError("The scheduler's config is not a JSON object.", "Download the checkpoint again.")
        row = _row_of(mapping, sampler, class_name)
        given = {key: value for key, value in mapping.items() if value is not None}
        if given.get("timestep_type", "discrete") != "discrete":
            raise UnsupportedError(
                f"The scheduler's timestep_type is {given['timestep_type']!r}, which is not implemented.",
                "Use a checkpoint whose network was trained on discrete timesteps.",
            )
        for key, implemented in row.reading.only.items():
            if key in given and not any(type(given[key]) is type(v) and given[key] == v for v in implemented):
                other = next(name for name, another in SAMPLERS.items() if key not in another.reading.only)
                raise UnsupportedError(
                    f"The scheduler's {key} is {given[key]!r}, which is not implemented for the sampler {row.name}.",
                    f"Choose another sampler, such as {other}.",
                )
        defaults = row.reading.defaults
        read = {**defaults, **given}
        options = {
            parameter: row.reading.values.get(key, {}).get(read[key], read[key])
            for key, parameter in row.reading.options.items()
            if key in read
        }
        known = {key: value for key, value in given.items() if key in defaults or key in _SHARED}
        values = ConfigValues({**defaults, **known, **row.reading.fixed})
        betas = values.numbers("trained_betas")
        steps = values.whole("num_train_timesteps", 1000, low=1, high=_MOST_TIMESTEPS)
        if betas is not None and len(betas) != steps:
            raise CheckpointError(
                f"The scheduler has {len(betas)} trained_betas for {steps} timesteps.", "Download the checkpoint again."
            )
        beta_start, beta_end = values.number("beta_start"), values.number("beta_end")
        if not 0 < beta_start <= beta_end < 1:
            raise CheckpointError(
                f"The scheduler's betas go from {beta_start:g} to {beta_end:g}, not upwards between 0 and 1.",
                "Download the checkpoint again.",
            )
        return cls(
            sampler=row.name,
            prediction_type=values.choice("prediction_type", PREDICTION_TYPES, "epsilon"),
            num_train_timesteps=steps,
            beta_schedule=values.choice("beta_schedule", BETA_SCHEDULES),
            beta_start=beta_start,
            beta_end=beta_end,
            trained_betas=betas,
            rescale_betas_zero_snr=values.truth("rescale_betas_zero_snr"),
            timestep_spacing=values.choice("timestep_spacing", SPACINGS),
            steps_offset=values.whole("steps_offset", 0, low=0, high=steps),
            ramp=values.ramp(),
            sigma_min=values.optional_number("sigma_min"),
            sigma_max=values.optional_number("sigma_max"),
            final_sigma=values.final_sigma(),
            lambda_min_clipped=values.number("lambda_min_clipped", -math.inf),
            original_inference_steps=values.whole("original_inference_steps", 50, low=1, high=steps),
            timestep_scaling=values.number("timestep_scaling", 10.0, low=0.0),
            options=tuple(options.items()),
        )


def _row_of(mapping: Mapping[str, Any], sampler: str | None, class_name: str | None) -> Sampler:
    chosen = None if sampler is None else find_sampler(sampler)
    name = mapping.get("_class_name") if class_name is None else class_name
    if chosen is not None and name is None:
        return chosen
    if not isinstance(name, str):
        raise CheckpointError("The scheduler's config names no _class_name.", "Download the checkpoint again.")
    row, exact = find_scheduler_class(name, mapping)
    if row is None:
        known = (known.name for row in SAMPLERS.values() for known in row.classes)
        raise UnsupportedError(
            f"The checkpoint's scheduler {name} is not implemented.",
            f"Use a checkpoint made for one of {', '.join(dict.fromkeys(known))}, for the samplers "
            f"{', '.join(SAMPLERS)}.",
        )
    if chosen is not None:
        return chosen
    if not exact:
        warnings.warn(
            MlxdiffWarning(f"The checkpoint asks for {name}, which is not implemented; {row.name} is used instead."),
            stacklevel=4,
        )
    return row
