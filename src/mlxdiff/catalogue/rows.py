"""What a row of the tables says."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import RequestError

Value = float | int | str | bool


@dataclass(frozen=True)
class Option:
    """A number or word that a sampler takes, under the name of its function's parameter."""

    name: str
    default: Value
    help: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[Value, ...] = ()

    def check(self, value: Any) -> Value:
        """The value itself. Raises RequestError where it is out of range."""
        if self.choices:
            if isinstance(value, bool) or value not in self.choices:
                raise RequestError(f"{self.name} is {value!r}.", f"Choose one of {_listed(self.choices)}.")
            return value
        fits = isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high
        if not fits:
            raise RequestError(f"{self.name} is {value!r}.", f"It is a number from {self.low:g} to {self.high:g}.")
        return value


@dataclass(frozen=True, eq=False)
class Reading:
    """How a diffusers class reads scheduler_config.json.

    defaults  the keys that it reads and not all classes do, or not with the same default
    only      keys that change the mathematics, with the values that are implemented; none is fine with every class
    options   keys that become options of the sampler: {key: parameter}
    values    values of those keys that mean another value here: {key: {theirs: ours}}
    fixed     what the class does whatever the file says, as if the file said it
    """

    defaults: Mapping[str, Any]
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[Any, Any]] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SchedulerClass:
    """A diffusers class, and the settings of it for which a sampler stands: (key, values), None where it is absent."""

    name: str
    when: tuple[tuple[str, tuple[str | None, ...]], ...] = ()

    def fits(self, config: Mapping[str, Any]) -> bool:
        return all(config.get(key) in values for key, values in self.when)


@dataclass(frozen=True)
class Placement:
    """Where a sampler's diffusers class puts its timesteps and levels.

    variance_preserving  its latents are x0 * sqrt(1 - s^2) + noise * s, and so is what it hands to the VAE
    whole                linspace is rounded to whole timesteps
    spare                training is divided into one step more, and the last is left out
    distilled            timesteps are chosen among those of a consistency model's distillation
    strided              a step lands num_train_timesteps // steps below where it began, not on the next timestep
    repeated             the second timestep is asked about twice (PLMS' warm-up)
    full_ramp            a ramp spans all of training, not what the spacing covers
    ramp_timesteps       a ramp's timesteps keep their fraction, or are made whole: always (karras' are rounded, others
                         cut off), or only karras'
    cosine_cut           karras' are cut off too where the betas are a cosine's
    infinite             zero terminal SNR is reached, and not stopped short of
    """

    variance_preserving: bool = False
    whole: bool = False
    spare: bool = False
    distilled: bool = False
    strided: bool = False
    repeated: bool = False
    full_ramp: bool = False
    ramp_timesteps: Literal["fraction", "whole", "whole_karras"] = "fraction"
    cosine_cut: bool = False
    infinite: bool = False


@dataclass(frozen=True, eq=False)
class Sampler:
    """A sampler: its names, what it takes, and where its function is.

    name       what mlxdiff calls and records it
    function   "module.function" below mlxdiff.diffusion.samplers
    a1111      AUTOMATIC1111's names, the first as its web UI shows it
    comfyui    ComfyUI's
    classes    the diffusers classes that it is, the first as other classes' configs are read
    nearest    diffusers classes whose solver is not here and that this comes closest to
    noise      none; fresh: independent draws; brownian: increments of one path; see `mlxdiff.diffusion.step.Noise`
    options    what a user may set
    takes      what the function takes of the schedule, by name: fields or methods of `mlxdiff.diffusion.Schedule`
    automatic  the schedule that A1111's "Automatic" is for it; None for samplers that have their own timesteps there
    order      its order of convergence
    evaluations  calls of the network per step
    program_noise  the noise that A1111 and ComfyUI draw for it, where that is not diffusers'
    unconditional  whether it asks for the negative branch alone (CFG++), whatever the guidance scale is
    guidance_divisor  what A1111 divides the guidance scale by for it
    cfg_pp     the row of its CFG++ form
    own_levels  whether it chooses its levels between the ends of the schedule
    adaptive   whether it chooses the number of steps itself, while it runs
    a1111_levels  "module.function" below mlxdiff.diffusion that gives all levels of a run in A1111, whatever schedule
               is asked for; it then works on latents of unit variance
    a1111_defaults  values of options that A1111 takes instead of the row's defaults
    discards_penultimate  the programs that leave the last level above 0 out of its schedule
    """

    name: str
    function: str
    help: str
    reading: Reading
    placement: Placement = Placement()
    a1111: tuple[str, ...] = ()
    comfyui: tuple[str, ...] = ()
    classes: tuple[SchedulerClass, ...] = ()
    nearest: tuple[str, ...] = ()
    noise: Literal["none", "fresh", "brownian"] = "none"
    options: tuple[Option, ...] = ()
    takes: tuple[str, ...] = ()
    automatic: str | None = "uniform"
    order: int = 1
    evaluations: int = 1
    program_noise: Literal["none", "fresh", "brownian"] | None = None
    unconditional: bool = False
    guidance_divisor: float = 1.0
    cfg_pp: str | None = None
    own_levels: bool = False
    adaptive: bool = False
    a1111_levels: str | None = None
    a1111_defaults: tuple[tuple[str, Value], ...] = ()
    discards_penultimate: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.a1111, *self.comfyui, *(known.name for known in self.classes if known.fits({})))

    @property
    def run(self) -> Callable[..., Any]:
        """The function itself: imports MLX."""
        return _function("mlxdiff.diffusion.samplers", self.function)

    @property
    def run_a1111_levels(self) -> Callable[..., Any] | None:
        return None if self.a1111_levels is None else _function("mlxdiff.diffusion", self.a1111_levels)

    def settle(self, options: Mapping[str, Any]) -> dict[str, Value]:
        """Every option with its value or its default; None is unset. Raises RequestError for one that it has not."""
        known = {option.name: option for option in self.options}
        given = {name: value for name, value in options.items() if value is not None}
        for name in given:
            if name not in known:
                has = f"It has {_listed(tuple(known))}." if known else "It has no options."
                raise RequestError(f"The sampler {self.name} has no {name}.", f"Leave it out. {has}")
        return {name: option.check(given[name]) if name in given else option.default for name, option in known.items()}


@dataclass(frozen=True, eq=False)
class ScheduleRow:
    """A way to choose the noise levels of a run.

    kind       spacing: which timesteps of training; ramp: levels between two ends; levels: all levels of a run
    function   "module.function" below mlxdiff.diffusion; none for a spacing
    a1111_function, comfyui_function  the function that gives what that program gives under this name, if another
    key        the key of scheduler_config.json that asks for a ramp
    sdxl       the row that stands in for it with Stable Diffusion XL
    """

    name: str
    kind: Literal["spacing", "ramp", "levels"]
    help: str
    function: str | None = None
    a1111: tuple[str, ...] = ()
    comfyui: tuple[str, ...] = ()
    a1111_function: str | None = None
    comfyui_function: str | None = None
    key: str | None = None
    sdxl: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.a1111, *self.comfyui)

    @property
    def run(self) -> Callable[..., Any]:
        return _function("mlxdiff.diffusion", str(self.function))

    def run_of(self, program: str) -> tuple[Callable[..., Any], bool]:
        """The function that gives what the program gives, and whether it gives all levels of a run, not a ramp."""
        own = {"a1111": self.a1111_function, "comfyui": self.comfyui_function}.get(program)
        return (self.run, self.kind == "levels") if own is None else (_function("mlxdiff.diffusion", own), True)


def _function(package: str, path: str) -> Callable[..., Any]:
    module, function = path.split(".")
    return getattr(importlib.import_module(f"{package}.{module}"), function)


def _listed(values: tuple[Any, ...]) -> str:
    return ", ".join(str(value) for value in values)
