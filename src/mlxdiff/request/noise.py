"""Settings of the noise: where it comes from, its levels, and what steps add; and whose pictures to reproduce."""

from __future__ import annotations

from dataclasses import dataclass

from .declarations import Choice, Number, Numbers, Whole, setting
from .kinds import MAX_SEED, MAX_STEPS, Size, Sizes

COMPAT = ("diffusers", "a1111", "comfyui")
NOISE_SOURCES = ("torch", "mlx", "philox")
OPTIONS = ("eta", "s_churn", "s_tmin", "s_tmax", "s_noise")  # settings that samplers take, where they do
MAX_SIGMA = 1e10


@dataclass(frozen=True)
class NoiseSettings:
    """The program whose noise it is, the noise that a run starts from, and the noise of its steps."""

    compat: str | None = setting(
        Choice(COMPAT),
        "Program whose pictures to reproduce: its noise, schedules, rounding and prompt syntax.",
        unset="diffusers, with A1111's prompt syntax",
        a1111="Compat",
    )
    rng: str | None = setting(
        Choice(NOISE_SOURCES),
        "Where noise comes from; torch gives diffusers' pictures on any chip.",
        unset="torch, and philox with --compat a1111",
        a1111="RNG",
    )
    variation_seed: int | None = setting(
        Whole(0, MAX_SEED), "Seed of another noise to mix in.", unset="0", neutral=0, a1111="Variation seed"
    )
    variation_strength: float | None = setting(
        Number(0, 1), "How much of that noise to mix in.", unset="0", neutral=0.0, a1111="Variation seed strength"
    )
    seed_resize: Size | None = setting(
        Sizes(), "WIDTHxHEIGHT of the picture whose composition to keep.", unset="off", a1111="Seed resize from"
    )
    ensd: int | None = setting(
        Whole(-(2**31), 2**31), "Number added to the seed for the noise of steps.", unset="0", neutral=0, a1111="ENSD"
    )
    rounding: str | None = setting(
        Choice(("nearest", "truncate")),
        "How colors become 8 bits.",
        unset="nearest, and truncate with --compat a1111 or comfyui",
        neutral="nearest",
    )
    sigmas: tuple[float, ...] | None = setting(
        Numbers(0, MAX_SIGMA, MAX_STEPS + 1), "Noise levels, in place of a schedule: 14.6,7,2.5,0.", unset="none"
    )
    eta: float | None = setting(
        Number(0, 10),
        "Noise added in each step, of samplers that add any; 0 is none.",
        unset="the sampler's",
        a1111="Eta",
    )
    s_churn: float | None = setting(
        Number(0, 1000), "Noise added before each step, of samplers that take it.", unset="0", a1111="Sigma churn"
    )
    s_tmin: float | None = setting(
        Number(0, MAX_SIGMA), "Lowest noise level at which s_churn adds noise.", unset="0", a1111="Sigma tmin"
    )
    s_tmax: float | None = setting(
        Number(0, MAX_SIGMA), "Highest noise level at which s_churn adds noise.", unset="no limit", a1111="Sigma tmax"
    )
    s_noise: float | None = setting(
        Number(0, 10), "Strength of the noise that steps add.", unset="1", a1111="Sigma noise"
    )
