"""Settings of how a picture is drawn: its steps, seeds, number and size."""

from __future__ import annotations

from dataclasses import dataclass

from .declarations import Number, Whole, setting
from .kinds import (
    MAX_GUIDANCE_SCALE,
    MAX_IMAGES,
    MAX_SEED,
    MAX_SIDE,
    MAX_STEPS,
    RANDOM_SEED,
    SAMPLER,
    SCHEDULE,
    BatchPlace,
    BatchPlaces,
    Seeds,
)

SEEDS = 2**32  # that are drawn where none is given


@dataclass(frozen=True)
class SamplingSettings:
    """Steps, sampler, guidance, seeds, number of pictures and their size."""

    steps: int | None = setting(Whole(1, MAX_STEPS), "Denoising steps.", unset="the checkpoint's", a1111="Steps")
    sampler: str | None = setting(
        SAMPLER,
        "How each step is taken.",
        unset="the checkpoint's",
        a1111="Sampler",
    )
    schedule: str | None = setting(
        SCHEDULE,
        "How noise levels are spaced.",
        unset="the checkpoint's",
        a1111="Schedule type",
    )
    guidance_scale: float | None = setting(
        Number(0, MAX_GUIDANCE_SCALE),
        "How closely to follow the prompt; 1 turns guidance off.",
        unset="the checkpoint's",
        flags=("--cfg",),
        a1111="CFG scale",
    )
    seed: int | tuple[int, ...] | None = setting(
        Seeds(0, MAX_SEED),
        f"Same seed, same picture; image i takes seed + i. {RANDOM_SEED} is random.",
        unset="random",
        a1111="Seed",
    )
    n_images: int = setting(Whole(1, MAX_IMAGES), "Number of pictures.", default=1, unset="1", vary=False)
    batch_index: BatchPlace | tuple[BatchPlace | None, ...] | None = setting(
        BatchPlaces(),
        "Place in a batch of ComfyUI's, such as 2/4: the third of four images of one seed.",
        unset="counted with --compat comfyui",
        vary=False,
    )
    height: int | None = setting(Whole(8, MAX_SIDE), "Pixels.", unset="the checkpoint's")
    width: int | None = setting(Whole(8, MAX_SIDE), "Pixels.", unset="the checkpoint's")
