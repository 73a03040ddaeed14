"""A request to what will be drawn: every default of the checkpoint filled in, and what does not fit it refused.

Reads configs and the names and contents of files that the request names; no weight, and no network.
"""

from __future__ import annotations

import math
import secrets
import warnings
from dataclasses import dataclass, fields, replace
from typing import Any

from . import backend, canvas, hub, ip_adapters, loras, presets, repainting, upscaling
from .catalogue import SAMPLERS, SCHEDULES
from .diffusion import guidance
from .diffusion.programs import PROGRAMS, program_schedule
from .diffusion.schedule import Schedule, make_schedule
from .diffusion.scheduler_config import SchedulerConfig
from .errors import MlxdiffWarning, RequestError
from .families import Checkpoint
from .families.base import Defaults
from .named_files import named_files
from .request import MAX_STEPS, OPTIONS, PROMPT_SYNTAXES, SEEDS, Model, Request, Resolved, declared


@dataclass(frozen=True)
class Loaded:
    """What a request is resolved against: the model as it is recorded, its configs, the content of its VAE's file."""

    model: Model
    checkpoint: Checkpoint
    defaults: Defaults
    hashes: tuple[tuple[str, str], ...] = ()


def resolve(request: Request, loaded: Loaded) -> Resolved:
    """The request as `loaded` will draw it. Raises RequestError where it does not fit, InputError for its files."""
    checkpoint, defaults = loaded.checkpoint, loaded.defaults
    request = loras.with_few_steps(loras.with_tags(presets.applied(request)))
    hashes = _hashes(request)
    request = replace(request, **repainting.settled(request, checkpoint, hashes))
    config = _config(request, checkpoint)
    schedule = _schedule_name(request, config, checkpoint)
    options = _options(request, config)
    height, width = _size(request, checkpoint, defaults)
    steps = defaults.steps if request.steps is None else request.steps
    if request.sigmas is not None and request.steps is None:
        steps = len(request.sigmas) - 1
    if request.strength is not None:
        steps = _enough(steps, request.strength)
    guidance_scale = defaults.guidance_scale if request.guidance_scale is None else request.guidance_scale
    request = replace(
        request.for_model(loaded.model),
        steps=steps,
        guidance_scale=guidance_scale,
        height=height,
        width=width,
        sampler=config.sampler,
        guidance_mode=None,  # which the sampler's name says
        schedule=schedule,
        prompt_syntax=PROMPT_SYNTAXES[0] if request.prompt_syntax is None else request.prompt_syntax,
        seed=secrets.randbelow(SEEDS) if request.seed is None else request.seed,
        hashes=(*loaded.hashes, *hashes) or None,
        **options,
        **{
            item.name: item.neutral
            for item in declared(Request)
            if item.neutral is not None and getattr(request, item.name) is None
        },
    )
    levels = _levels(request, config, checkpoint)
    guidance.interval_of(levels.sigmas, *request.guidance_interval)
    if request.token_merging and not checkpoint.backbone.merges_tokens:
        raise RequestError("This model has no attention in which tokens could merge.", "Leave token_merging out.")
    if request.pag_scale and not checkpoint.backbone.can_be_perturbed:
        raise RequestError("This model has no attention at the bottom of its UNet to perturb.", "Leave pag_scale out.")
    for adapter in request.ip_adapter or ():
        ip_adapters.find(adapter, checkpoint.backbone)
        ip_adapters.levels_of(adapter, levels.sigmas)
    _check_memory(request, checkpoint)
    values = {item.name: getattr(request, item.name) for item in fields(Request)}
    finished = _enlarged(request, canvas.finished_size(request, (height, width), checkpoint.scale_factor))
    return Resolved(**values, noise_levels=levels, finished_size=finished)


def _config(request: Request, checkpoint: Checkpoint) -> SchedulerConfig:
    """The sampler that is asked for on this checkpoint, in the form that is asked for."""

    def read(sampler: str | None) -> SchedulerConfig:
        return SchedulerConfig.from_dict(checkpoint.scheduler, sampler, class_name=checkpoint.scheduler_class)

    config = read(request.sampler)
    row = config.row
    if request.guidance_mode == "cfg" and row.unconditional:
        plain = next(other.name for other in SAMPLERS.values() if other.cfg_pp == row.name)
        raise RequestError(f"The sampler {row.name} is a CFG++ form.", f"Without guidance_mode cfgpp it is {plain}.")
    if request.guidance_mode != "cfgpp" or row.unconditional:
        return config
    if row.cfg_pp is None:
        there = ", ".join(other.name for other in SAMPLERS.values() if other.cfg_pp is not None)
        raise RequestError(f"The sampler {row.name} has no CFG++ form.", f"These have one: {there}.")
    return read(row.cfg_pp)


def _schedule_name(request: Request, config: SchedulerConfig, checkpoint: Checkpoint) -> str | None:
    """The schedule by its name; None is the checkpoint's own, or where noise levels are given."""
    name = request.schedule
    if name is None and request.sigmas is None and request.compat in PROGRAMS:
        name = config.row.automatic if request.compat == "a1111" else "uniform"
    if name is not None and checkpoint.index.class_name.startswith("StableDiffusionXL"):
        own = SCHEDULES[name].sdxl
        return name if own is None else own
    return name


def _options(request: Request, config: SchedulerConfig) -> dict[str, Any]:
    """The sampler's options that are settings, with A1111's defaults where its picture is asked for."""
    defaults = dict(config.row.a1111_defaults) if request.compat == "a1111" else {}
    given = {name: getattr(request, name) for name in OPTIONS}
    config.row.settle(given)
    return {name: defaults.get(name) if value is None else value for name, value in given.items()}


def _levels(request: Request, config: SchedulerConfig, checkpoint: Checkpoint) -> Schedule:
    """The schedule of the run, made as the program makes it whose picture is asked for."""
    wanted = {"steps": request.steps, "schedule": request.schedule, "sigmas": request.sigmas}
    if request.compat in PROGRAMS:
        return program_schedule(request.compat, config, strength=request.strength, **wanted)
    # A consistency model's own pipeline spreads the steps over the strength's part; all others leave steps out.
    if checkpoint.index.class_name.startswith("LatentConsistencyModel") and config.row.placement.distilled:
        return make_schedule(config, span=request.strength, **wanted)
    return make_schedule(config, strength=request.strength, **wanted)


def _size(request: Request, checkpoint: Checkpoint, defaults: Defaults) -> tuple[int, int]:
    """Height and width in pixels: those asked for, else the picture's own, else the checkpoint's."""
    factor = checkpoint.scale_factor
    height, width = defaults.height, defaults.width
    if request.image is not None and request.height is None and request.width is None:
        own = canvas.base_size(request.image, request.expand)
        if request.inpaint_area == "masked":
            return height, width
        if request.mask is not None or request.expand is not None:
            return canvas.rounded_up(own, factor)
        height, width = (max(factor, side // factor * factor) for side in own)
        if (height, width) != own:
            text = f"The picture is {own[1]}x{own[0]} pixels; {width}x{height} are drawn, multiples of {factor}."
            warnings.warn(MlxdiffWarning(text), stacklevel=2)
    height = height if request.height is None else request.height
    width = width if request.width is None else request.width
    for name, value in (("height", height), ("width", width)):
        if value % factor != 0:
            near = max(factor, round(value / factor) * factor)
            raise RequestError(
                f"{name} is {value}, which is not a multiple of {factor}, the VAE's factor.", f"Try {near}."
            )
    return height, width


def _enough(steps: int, strength: float) -> int:
    """The steps, or as many as give one at this strength."""
    if strength == 0 or int(steps * strength) >= 1:
        return steps
    more = math.ceil(1 / strength)
    more += int(more * strength) < 1  # 1 / strength may be rounded down
    if more > MAX_STEPS:
        return steps
    warnings.warn(
        MlxdiffWarning(f"Of {steps} steps a strength of {strength:g} leaves none: {more} are taken."), stacklevel=2
    )
    return more


def _hashes(request: Request) -> tuple[tuple[str, str], ...]:
    """(name, SHA-256) of the files that the request names."""
    return tuple(dict.fromkeys((file.name, file.digest()) for file in named_files(request, scope="picture")))


def _enlarged(request: Request, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a picture behind the request's upscaler. Raises what `upscaling.check` raises."""
    if request.upscaler is None:
        return size
    path = hub.find_part(request.upscaler, "upscaler")
    upscaling.check(path, *size)
    factor = upscaling.factor_of(path)
    return size[0] * factor, size[1] * factor


def _check_memory(request: Request, checkpoint: Checkpoint) -> None:
    """Raises RequestError where one picture alone would not fit into the memory."""
    height, width = request.height, request.width
    assert height is not None
    assert width is not None
    cells = (height // checkpoint.scale_factor) * (width // checkpoint.scale_factor)
    dtype = backend.parse_dtype(request.dtype or "fp32")
    needed = checkpoint.backbone.bytes_per_row(cells, dtype.size, fused_attention=True)
    if needed > backend.memory_size():
        raise RequestError(
            f"A picture of {width}x{height} pixels needs about {needed / 1e9:.3g} GB, and"
            f" {backend.memory_size() / 1e9:.3g} GB are there.",
            "Ask for a smaller one.",
        )
