"""Request's settings as keyword arguments: the one place where they are spelled again, for editors."""

from __future__ import annotations

from typing import Any, TypedDict


class Settings(TypedDict, total=False):
    """Request's settings as keyword arguments, each as it is declared; a test holds this to that."""

    negative_prompt: str | None
    prompt_syntax: str | None
    clip_skip: int | None
    embedding: list[Any] | tuple[Any, ...] | str | None
    lora: list[Any] | tuple[Any, ...] | str | None
    steps: int | None
    sampler: str | None
    schedule: str | None
    guidance_scale: float | None
    seed: int | list[int] | tuple[int, ...] | None
    n_images: int
    batch_index: Any
    height: int | None
    width: int | None
    image: Any
    strength: float | None
    mask: Any
    mask_blur: float | None
    fit: str | None
    inpaint_fill: str | None
    inpaint_area: str | None
    inpaint_padding: int | None
    expand: Any
    image_guidance_scale: float | None
    depth: Any
    control: list[Any] | tuple[Any, ...] | str | None
    control_preprocess: str | None
    ip_adapter: list[Any] | tuple[Any, ...] | str | None
    compat: str | None
    rng: str | None
    variation_seed: int | None
    variation_strength: float | None
    seed_resize: Any
    ensd: int | None
    rounding: str | None
    sigmas: list[float] | tuple[float, ...] | str | None
    eta: float | None
    s_churn: float | None
    s_tmin: float | None
    s_tmax: float | None
    s_noise: float | None
    guidance_start: float | None
    guidance_end: float | None
    guidance_rescale: float | None
    guidance_mode: str | None
    pag_scale: float | None
    hires: float | None
    hires_size: Any
    hires_strength: float | None
    hires_steps: int | None
    hires_upscaler: Any
    hires_sampler: str | None
    hires_schedule: str | None
    hires_guidance_scale: float | None
    hires_prompt: str | None
    hires_negative_prompt: str | None
    refiner: Any
    refiner_switch: float | None
    upscaler: Any
    cache_interval: int | None
    token_merging: float | None
