"""A request to what will be drawn: every default of the checkpoint filled in, and what does not fit it refused.

Reads configs and the names and contents of files that the request names; no weight, and no network.
"""

from __future__ import annotations

import math
import secrets
import warnings
from dataclasses import dataclass, fields
from typing import Any

from . import backend, budget, canvas, hub, loras, repainting, upscaling
from .catalogue import SAMPLERS, UPSCALERS
from .diffusion import guidance
from .diffusion.programs import PROGRAMS
from .diffusion.scheduler_config import SchedulerConfig
from .errors import MlxdiffWarning, RequestError
from .families import Checkpoint
from .families.base import NOTHING, Defaults
from .hashing import content_hash
from .named_files import named_files
from .parts import BACKBONE
from .passes import randomness, scheduling, stages
from .request import MAX_STEPS, OPTIONS, PROMPT_SYNTAXES, SEEDS, Model, Request, Resolved, presets
from .request.controls import prepared_alike
from .steering import ip_adapters, regions

_DRAWN = 80  # bytes that each number takes while noise is drawn, at most
_SAME_LEVEL = 1e-5  # of two noise levels: their relative difference


@dataclass(frozen=True)
class Loaded:
    """What a request is resolved against: the model as it is recorded, its configs, the content of its VAE's file."""

    model: Model
    checkpoint: Checkpoint
    defaults: Defaults
    hashes: tuple[tuple[str, str], ...] = ()


def resolve(request: Request, loaded: Loaded, refiner: Loaded | None = None) -> Resolved:
    """The request as `loaded` will draw it, and `refiner` what it refines.

    Raises RequestError where it does not fit, InputError for its files.
    """
    checkpoint, defaults = loaded.checkpoint, loaded.defaults
    request = loras.with_few_steps(loras.with_tags(presets.applied(request)))
    controls = prepared_alike(request.control, request.control_preprocess)
    request = request.replaced(control=controls, control_preprocess=None)  # each says it itself from here on
    if request.batch_index is not None and request.compat != "comfyui":
        raise RequestError("There is a batch_index, which only ComfyUI's noise has.", "Add compat comfyui.")
    hashes = _hashes(request)
    request = request.replaced(**repainting.settled(request, checkpoint, hashes))
    asked = request
    config = _config(request, checkpoint)
    schedule = scheduling.schedule_name(request, config, checkpoint)
    options = _options(request, config)
    height, width = _size(request, checkpoint, defaults)
    steps = defaults.steps if request.steps is None else request.steps
    if request.sigmas is not None and request.steps is None:
        steps = len(request.sigmas) - 1
    if request.strength is not None and request.sigmas is None and request.compat not in PROGRAMS:
        steps = _enough(steps, request.strength)
    guidance_scale = defaults.guidance_scale if request.guidance_scale is None else request.guidance_scale
    request = request.for_model(loaded.model).replaced(
        steps=steps,
        guidance_scale=guidance_scale,
        height=height,
        width=width,
        sampler=config.sampler,
        guidance_mode=None,  # which the sampler's name says
        schedule=schedule,
        prompt_syntax=PROMPT_SYNTAXES[0] if request.prompt_syntax is None else request.prompt_syntax,
        seed=secrets.randbelow(SEEDS) if request.seed is None else request.seed,
        hashes=(*loaded.hashes, *hashes, *(() if refiner is None else _hashes_of_model(refiner))) or None,
        **options,
        **stages.settled(request),
        **request.neutral_values(),
    )
    _say_of_seeds(request)
    levels = scheduling.levels_of(request, config, checkpoint)
    if request.token_merging and not checkpoint.backbone.merges_tokens:
        raise RequestError("This model has no attention in which tokens could merge.", "Leave token_merging out.")
    if request.pag_scale and not checkpoint.backbone.can_be_perturbed:
        raise RequestError("This model has no attention at the bottom of its UNet to perturb.", "Leave pag_scale out.")
    for adapter in request.ip_adapter or ():
        ip_adapters.find(adapter, checkpoint.backbone)
        for mask in adapter.mask or ():
            regions.check_region(mask, hashes)
    if refiner is not None:
        _check_latents(checkpoint, refiner)
        request = request.replaced(refiner=refiner.model.place)
    passes = stages.plan(request, levels, asked, checkpoint, None if refiner is None else refiner.checkpoint)
    request = request.replaced(hires_schedule=stages.schedule_of_second(request, passes))
    values = {item.name: getattr(request, item.name) for item in fields(Request)}
    resolved = Resolved(**values, noise_levels=levels, passes=passes)
    _check_noise(resolved, checkpoint)
    _check_enlarging(resolved, checkpoint.scale_factor)
    size = resolved.final_size
    if len(passes) == 1 or size == (height, width):
        size = canvas.finished_size(request, (height, width), checkpoint.scale_factor)
    resolved = resolved.replaced(finished_size=_enlarged(request, size))
    own = [pair for _, held in stages.views(resolved) for pair in _hashes(held)]
    if set(own) - set(resolved.hashes or ()):  # of LoRAs that the prompt of a second pass names
        resolved = resolved.replaced(hashes=tuple(dict.fromkeys([*(resolved.hashes or ()), *own])))
    for each, held in stages.views(resolved):
        _check_memory(held, (refiner if each.refines and refiner is not None else loaded).checkpoint)
        _check_levels(held)
        guidance.interval_of(held.noise_levels.sigmas, *held.guidance_interval)
        for adapter in () if each.refines else held.ip_adapter or ():
            ip_adapters.levels_of(adapter, held.noise_levels.sigmas)
    return resolved


def _config(request: Request, checkpoint: Checkpoint) -> SchedulerConfig:
    """The sampler that is asked for on this checkpoint, in the form that is asked for."""

    config = scheduling.config_of(checkpoint, request.sampler)
    row = config.row
    if request.guidance_mode == "cfg" and row.unconditional:
        plain = next(other.name for other in SAMPLERS.values() if other.cfg_pp == row.name)
        raise RequestError(f"The sampler {row.name} is a CFG++ form.", f"Without guidance_mode cfgpp it is {plain}.")
    if request.guidance_mode != "cfgpp" or row.unconditional:
        return config
    if row.cfg_pp is None:
        there = ", ".join(other.name for other in SAMPLERS.values() if other.cfg_pp is not None)
        raise RequestError(f"The sampler {row.name} has no CFG++ form.", f"These have one: {there}.")
    return scheduling.config_of(checkpoint, row.cfg_pp)


def _check_latents(base: Checkpoint, refiner: Loaded) -> None:
    """Raises RequestError where the refiner cannot read what the base leaves."""
    ours, theirs = base.vae, refiner.checkpoint.vae
    kept = ("latent_channels", "scale_factor")
    if type(ours) is type(theirs):  # a tiny VAE says it in numbers of its own
        kept = (*kept, "scaling_factor", "shift_factor")
    if any(getattr(ours, name, None) != getattr(theirs, name, None) for name in kept):
        raise RequestError(
            f"The refiner {refiner.model.place} has latents of another kind than the model.",
            "Take one of the same family, such as SDXL's refiner for SDXL.",
        )
    if refiner.checkpoint.takes != NOTHING:
        raise RequestError(
            f"The refiner {refiner.model.place} draws from a picture.", "Take a text-to-image checkpoint."
        )


def _options(request: Request, config: SchedulerConfig) -> dict[str, Any]:
    """The sampler's options that are settings, with A1111's defaults where its picture is asked for."""
    defaults = dict(config.row.a1111_defaults) if request.compat == "a1111" else {}
    given = {name: getattr(request, name) for name in OPTIONS}
    config.row.settle(given)
    return {name: defaults.get(name) if value is None else value for name, value in given.items()}


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
    """The steps, or as many as give one at this strength of diffusers': other programs run one at any strength."""
    if strength * (MAX_STEPS + 1) < 1 or int(steps * strength) >= 1:
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


def _hashes_of_model(refiner: Loaded) -> tuple[tuple[str, str], ...]:
    """Of a refiner on this disk, its file or the folder of its UNet: a revision says what one of the hub is."""
    path, name = refiner.checkpoint.folder, refiner.model.reference
    if refiner.model.revision is not None or name is None or name == hub.BUILT_IN:
        return refiner.hashes
    own = (name, content_hash(path)) if path.is_file() else (f"{name}/{BACKBONE}", content_hash(path / BACKBONE))
    return (*refiner.hashes, own)


def _enlarged(request: Request, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a picture behind the request's upscaler. Raises what `upscaling.check` raises."""
    if request.upscaler is None:
        return size
    path = hub.find_part(request.upscaler, "upscaler")
    upscaling.check(path, *size)
    factor = upscaling.factor_of(path)
    return size[0] * factor, size[1] * factor


def _check_enlarging(request: Resolved, factor: int) -> None:
    """Raises what `upscaling.check` raises where a network is to enlarge the first pass's pictures, and cannot."""
    name = request.hires_upscaler
    target = next((each.enlarged_to for each in request.passes if each.enlarged_to is not None), None)
    if name is None or name in UPSCALERS or target is None:
        return
    path, (height, width) = hub.find_part(name, "upscaler"), target
    for size in upscaling.in_turn(path, request.height, request.width, height * factor, width * factor):
        upscaling.check(path, *size)


def _say_of_seeds(request: Request) -> None:
    """An MlxdiffWarning where A1111 would count on another seed than mlxdiff does."""
    counted = request.batch_size > 1 and not isinstance(request.seed, tuple)
    if counted and request.compat == "a1111" and request.variation_strength:
        text = (
            "A1111 gives all images of a batch the same seed and counts the variation seed; here image i takes seed + i"
            " and they share the variation seed. Expect other pictures behind the first, or give each a line of its own"
            " in a prompts file."
        )
        warnings.warn(MlxdiffWarning(text), stacklevel=2)


def _check_noise(request: Resolved, checkpoint: Checkpoint) -> None:
    """Raises RequestError where noise that is drawn for other sizes or images than these would not fit into memory."""
    number = _DRAWN * checkpoint.vae.latent_channels / checkpoint.scale_factor**2
    size = request.seed_resize
    if size is not None and not budget.fits(needed := int(number * size.width * size.height)):
        raise RequestError(f"Noise of {size} pixels (seed_resize) {budget.lack(needed)}.", "Resize from a smaller one.")
    row = SAMPLERS[request.sampler]
    if request.rng == "torch" and "brownian" not in (row.noise, row.program_noise):
        return  # a batch is drawn image by image
    count = max((place.count or place.index + 1 for place in request.batch_places if place is not None), default=1)
    if not budget.fits(needed := int(number * count * request.width * request.height)):
        raise RequestError(f"Noise of {count} images (batch_index) {budget.lack(needed)}.", "Name a smaller batch.")


def _check_levels(request: Resolved) -> None:
    """Raises RequestError where a pass has one noise level above 0, and its sampler goes from one to another."""
    ends = None
    if randomness.kind_of(request) == "brownian":
        ends = request.noise_levels.ends
    if SAMPLERS[request.sampler].adaptive:
        ends = min(level for level in request.noise_levels.sigmas if level > 0), request.noise_levels.sigmas[0]
    if ends is not None and math.isclose(*ends, rel_tol=_SAME_LEVEL):
        raise RequestError(
            f"The sampler {request.sampler} needs two noise levels above 0, and this run has {ends[0]:g} alone.",
            "Ask for more steps, or a higher strength.",
        )


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
