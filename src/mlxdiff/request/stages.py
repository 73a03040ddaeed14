"""Settings of what follows the first pass: the second pass (hires fix), the refiner, the upscaler."""

from __future__ import annotations

from dataclasses import dataclass

from .. import catalogue
from .declarations import Number, PartReference, Reference, Text, Whole, setting
from .kinds import MAX_GUIDANCE_SCALE, MAX_STEPS, SAMPLER, SCHEDULE, Size, Sizes, Upscalers

ONLY_WITH_HIRES = (
    *("hires_strength", "hires_steps", "hires_upscaler", "hires_sampler", "hires_schedule"),
    *("hires_guidance_scale", "hires_prompt", "hires_negative_prompt"),
)
MAX_HIRES = 16


@dataclass(frozen=True)
class StageSettings:
    """The second pass with its own settings, the refiner, and the network that enlarges the finished picture."""

    hires: float | None = setting(
        Number(1, MAX_HIRES),
        "Enlarge the picture by this factor and go over it again (hires fix).",
        group="Stages",
        unset="off",
        a1111="Hires upscale",
    )
    hires_size: Size | None = setting(
        Sizes(),
        "WIDTHxHEIGHT to enlarge to, in place of a factor.",
        group="Stages",
        unset="off",
        a1111="Hires resize",
    )
    hires_strength: float | None = setting(
        Number(0, 1),
        "How far the second pass may go from the enlarged picture: 0 keeps it, 1 redraws it.",
        group="Stages",
        unset="0.7 with --hires",
        a1111="Hires strength",
    )
    hires_steps: int | None = setting(
        Whole(1, MAX_STEPS),
        "Steps that the second pass runs.",
        group="Stages",
        unset="those of the first",
        a1111="Hires steps",
    )
    hires_upscaler: str | None = setting(
        Upscalers("upscaler"),
        f"How to enlarge: {', '.join(catalogue.UPSCALERS)}, or the reference of an upscaler network.",
        group="Stages",
        unset="latent with --hires",
        a1111="Hires upscaler",
    )
    hires_sampler: str | None = setting(
        SAMPLER,
        "Sampler of the second pass.",
        group="Stages",
        unset="that of the first",
        a1111="Hires sampler",
    )
    hires_schedule: str | None = setting(
        SCHEDULE,
        "Schedule of the second pass.",
        group="Stages",
        unset="that of the first",
        a1111="Hires schedule type",
    )
    hires_guidance_scale: float | None = setting(
        Number(0, MAX_GUIDANCE_SCALE),
        "Guidance scale of the second pass.",
        group="Stages",
        unset="that of the first",
        flags=("--hires-cfg",),
        a1111="Hires CFG Scale",
    )
    hires_prompt: str | None = setting(
        Text(), "Prompt of the second pass.", group="Stages", unset="that of the first", a1111="Hires prompt"
    )
    hires_negative_prompt: str | None = setting(
        Text(),
        "Negative prompt of the second pass.",
        group="Stages",
        unset="that of the first",
        a1111="Hires negative prompt",
    )
    refiner: str | None = setting(
        Reference(),
        "Another checkpoint of the same latents, such as SDXL's refiner, which takes the last steps.",
        group="Stages",
        unset="none",
        a1111="Refiner",
    )
    refiner_switch: float | None = setting(
        Number(0, 1),
        "Where the refiner takes over: 0.8 leaves it the last fifth of the timesteps.",
        group="Stages",
        unset="0.8 with --refiner",
        a1111="Refiner switch at",
    )
    upscaler: str | None = setting(
        PartReference("upscaler"),
        "Network (ESRGAN, Real-ESRGAN) that enlarges the finished picture: .safetensors file, name, or hub id.",
        group="Stages",
        unset="none",
        a1111="Postprocess upscaler",
    )
