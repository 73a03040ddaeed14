"""What a checkpoint's scheduler_config.json says, read for the sampler that will be used.

A file is written for one diffusers class, and each class has its own defaults. Another sampler reads the same file with
the defaults of its own class, and skips what that class does not know, as diffusers' `from_config` does. That includes
`rescale_betas_zero_snr` for `heun` and `pndm`: they average slopes, and over a first step from infinite noise such an
average blows up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError, RequestError, UnsupportedError
from ..request import SAMPLERS

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
SPACINGS = ("leading", "linspace", "trailing")
RAMPS = ("karras", "exponential", "beta")
_MOST_TIMESTEPS = 100_000  # tables of this length are made in memory; real checkpoints have 1000

_CLASSES = {
    "DDIMScheduler": "ddim",
    "PNDMScheduler": "pndm",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "HeunDiscreteScheduler": "heun",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "LCMScheduler": "lcm",
}
_ALGORITHMS = {"dpmsolver++": "dpmpp_2m", "deis": "dpmpp_2m", "sde-dpmsolver++": "dpmpp_2m_sde"}
# Classes whose own solver is not here, but whose noise schedule means the same.
_RELATED_CLASSES = {
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "DDIMParallelScheduler",
    "DEISMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
}

# Keys that every class reads with the same default, or reads from another class's file.
_SHARED = {"prediction_type", "num_train_timesteps", "trained_betas", "steps_offset", "sigma_min", "sigma_max"}
_COMMON = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}
_RAMPED = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_DPM = {"timestep_spacing": "linspace", "rescale_betas_zero_snr": False, "lambda_min_clipped": -math.inf, **_RAMPED}
# The keys a sampler's class reads that not all classes read, or not with the same default.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ddim": {**_COMMON, "timestep_spacing": "leading", "rescale_betas_zero_snr": False, "set_alpha_to_one": True},
    "pndm": {**_COMMON, "timestep_spacing": "leading", "set_alpha_to_one": False},
    "euler": {
        **_COMMON,
        "timestep_spacing": "linspace",
        "rescale_betas_zero_snr": False,
        "final_sigmas_type": "zero",
        **_RAMPED,
    },
    "euler_ancestral": {**_COMMON, "timestep_spacing": "linspace", "rescale_betas_zero_snr": False},
    "heun": {**_COMMON, "beta_start": 0.00085, "beta_end": 0.012, "timestep_spacing": "linspace", **_RAMPED},
    "dpmpp_2m": {**_COMMON, **_DPM},
    "dpmpp_2m_sde": {**_COMMON, **_DPM},
    "lcm": {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "timestep_spacing": "leading",
        "rescale_betas_zero_snr": False,
        "original_inference_steps": 50,
        "timestep_scaling": 10.0,
    },
}
# Keys that change the mathematics, with the values that are implemented. A file without the key is fine: clipping suits
# pixels, not latents, although DDIM's class clips by default; and PLMS is the only warm-up here.
_DPM_ONLY = {
    "thresholding": (False,),
    "solver_order": (2,),
    "solver_type": ("midpoint", "logrho", "bh1", "bh2"),  # the last three are other classes', read as midpoint
    "final_sigmas_type": ("zero",),
    "use_lu_lambdas": (False,),
    "use_flow_sigmas": (False,),
    "use_dynamic_shifting": (False,),
    "variance_type": (),
}
_ONLY: dict[str, dict[str, tuple[Any, ...]]] = {
    "ddim": {"clip_sample": (False,), "thresholding": (False,)},
    "pndm": {"skip_prk_steps": (True,)},
    "euler": {"interpolation_type": ("linear",)},
    "euler_ancestral": {},
    "heun": {"clip_sample": (False,)},
    "dpmpp_2m": _DPM_ONLY,
    "dpmpp_2m_sde": _DPM_ONLY,
    "lcm": {"clip_sample": (False,), "thresholding": (False,)},
}


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

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any], sampler: str | None = None) -> SchedulerConfig:
        """Reads the JSON object of the file for `sampler`, or for the sampler of the file's own class.

        Raises RequestError for an unknown sampler, UnsupportedError for a setting that is not implemented, and
        CheckpointError for a value that makes no sense.
        """
        if not isinstance(mapping, Mapping):
            raise CheckpointError("The scheduler's config is not a JSON object.", "Download the checkpoint again.")
        sampler = _sampler_of(mapping, sampler)
        given = {key: value for key, value in mapping.items() if value is not None}
        if given.get("timestep_type", "discrete") != "discrete":
            raise UnsupportedError(
                f"The scheduler's timestep_type is {given['timestep_type']!r}, which is not implemented.",
                "Use a checkpoint whose network was trained on discrete timesteps.",
            )
        for key, implemented in _ONLY[sampler].items():
            if key in given and given[key] not in implemented:
                raise UnsupportedError(
                    f"The scheduler's {key} is {given[key]!r}, which is not implemented for the sampler {sampler}.",
                    f"Choose another sampler, such as {'ddim' if sampler == 'euler' else 'euler'}.",
                )
        defaults = _DEFAULTS[sampler]
        values = _Values({**defaults, **{k: v for k, v in given.items() if k in defaults or k in _SHARED}})
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
            sampler=sampler,
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
        )


def _sampler_of(mapping: Mapping[str, Any], sampler: str | None) -> str:
    if sampler is not None and sampler not in SAMPLERS:
        raise RequestError(f"There is no sampler {sampler!r}.", f"Choose one of {', '.join(SAMPLERS)}.")
    name = mapping.get("_class_name")
    if sampler is not None and name is None:
        return sampler
    if not isinstance(name, str):
        raise CheckpointError("The scheduler's config names no _class_name.", "Download the checkpoint again.")
    if sampler is not None and (name in _CLASSES or name in _RELATED_CLASSES):
        return sampler
    choice = f"Choose one of the samplers {', '.join(SAMPLERS)}."
    if name in _RELATED_CLASSES:
        raise UnsupportedError(f"The checkpoint's scheduler {name} is not implemented.", choice)
    if name not in _CLASSES:
        raise UnsupportedError(
            f"The checkpoint's scheduler {name} is not implemented.",
            f"Use a checkpoint made for one of {', '.join(_CLASSES)}, for the samplers {', '.join(SAMPLERS)}.",
        )
    if _CLASSES[name] != "dpmpp_2m":
        return _CLASSES[name]
    algorithm = mapping.get("algorithm_type", "dpmsolver++")
    if not isinstance(algorithm, str) or algorithm not in _ALGORITHMS:
        raise UnsupportedError(f"The scheduler's algorithm_type {algorithm!r} is not implemented.", choice)
    return _ALGORITHMS[algorithm]


class _Values:
    """The keys of one config, checked as they are read."""

    def __init__(self, values: Mapping[str, Any]):
        self._values = values

    def _bad(self, key: str, wanted: str) -> CheckpointError:
        return CheckpointError(
            f"The scheduler's {key} is {self._values[key]!r}, not {wanted}.", "Download the checkpoint again."
        )

    def whole(self, key: str, default: int, *, low: int, high: int) -> int:
        value = self._values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._bad(key, "a whole number")
        if key in self._values and not low <= value <= high:
            raise self._bad(key, f"from {low} to {high}")
        return value

    def number(self, key: str, default: float = 0.0, *, low: float = -math.inf, high: float = math.inf) -> float:
        value = self._values.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise self._bad(key, "a number" if low == -math.inf else f"a number from {low:g} to {high:g}")
        return float(value)

    def optional_number(self, key: str) -> float | None:
        if key not in self._values:
            return None
        value = self.number(key)
        if not 0 < value < math.inf:
            raise self._bad(key, "a positive number")
        return value

    def numbers(self, key: str) -> tuple[float, ...] | None:
        if key not in self._values:
            return None
        values = self._values[key]
        if not isinstance(values, list | tuple) or not all(isinstance(v, int | float) and 0 < v < 1 for v in values):
            raise self._bad(key, "a list of numbers between 0 and 1")
        return tuple(float(value) for value in values)

    def truth(self, key: str) -> bool:
        value = self._values.get(key, False)
        if not isinstance(value, bool):
            raise self._bad(key, "true or false")
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: str | None = None) -> str:
        value = self._values.get(key, default)
        if not isinstance(value, str):
            raise self._bad(key, "text")
        if value not in choices:
            raise UnsupportedError(
                f"The scheduler's {key} {value!r} is not implemented.", f"Known are {', '.join(choices)}."
            )
        return value

    def ramp(self) -> str | None:
        named = [ramp for ramp in RAMPS if self.truth(f"use_{ramp}_sigmas")]
        if len(named) > 1:
            raise CheckpointError(
                f"The scheduler asks for {' and '.join(named)} sigmas at once.", "Choose one with the schedule option."
            )
        return named[0] if named else None

    def final_sigma(self) -> str:
        if "set_alpha_to_one" in self._values:
            return "zero" if self.truth("set_alpha_to_one") else "sigma_min"
        return self.choice("final_sigmas_type", ("zero", "sigma_min"), "zero")
