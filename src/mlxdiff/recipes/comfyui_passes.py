"""A second sampler in ComfyUI's graph, where it is plain what it is: a pass over the enlarged picture, or a refiner.

    KSampler -> LatentUpscale or LatentUpscaleBy -> KSampler                           enlarged latents
    KSampler -> VAEDecode -> ImageScale or ImageScaleBy (lanczos) -> VAEEncode -> KSampler      an enlarged picture
    KSamplerAdvanced to a step -> KSamplerAdvanced from that step on, with another checkpoint   a refiner

What the second sampler is told otherwise than the first becomes settings of the second pass. Anything else between two
samplers, a third one, or another seed stays unused, and is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..catalogue import SAMPLERS, UPSCALERS
from .graph import is_sampler, link_of
from .recipe import FindModel, Gathering

if TYPE_CHECKING:
    from .comfyui import Way

_LATENTS = ("latent_image", "latent", "samples")
_ENLARGES = {"LatentUpscale": "samples", "LatentUpscaleBy": "samples", "ImageScale": "image", "ImageScaleBy": "image"}
_PASSES_ON = {"VAEDecode": "samples", "VAEEncode": "pixels", "VAEDecodeTiled": "samples", "VAEEncodeTiled": "pixels"}
_TOLD = ("sampler", "schedule", "guidance_scale", "prompt", "negative_prompt")
_NEXT = ("add_noise", "return_with_leftover_noise", "start_at_step", "end_at_step")  # what two halves of a run say


def enlarged(way: Way, find_model: FindModel | None) -> tuple[str, ...]:
    """Takes a second pass over the enlarged picture, if there is one; gives the inputs of the sampler that it used."""
    found = _behind(way)
    if len(found) != 1:
        return ()
    (second, between), *_ = found.items()
    scalers = [name for name in between if way.nodes[name]["class_type"] in _ENLARGES]
    if len(scalers) != 1 or not _takes_size(way, scalers[0]):
        return ()
    other = _of_sampler(way, second, find_model)
    way.used |= {second, *between}
    inputs = way.nodes[second]["inputs"]
    strength = way.value(inputs.get("denoise", 1.0), "denoise")
    way.made.take("hires_strength", strength if isinstance(strength, int | float) else 1.0, "denoise")
    _differences(way, other)
    _left(way, other, "second sampler")
    for name in ("model", "clip_skip"):
        if other.settings.get(name) != way.made.settings.get(name):
            way.made.leave(f"{name} of the second sampler", other.settings.get(name))
    if other.settings.get("lora") != way.made.settings.get("lora"):
        way.made.leave("LoRAs of the second sampler", _loras(other) or "without any")
    neutral = {"add_noise": ("enable", True), "start_at_step": (0,), "return_with_leftover_noise": ("disable",)}
    for name, values in neutral.items():
        said = way.said(inputs, name)
        if name in inputs and said not in values:
            way.made.leave(f"{name} of the second sampler", said or "disable")
    return ()


def refined(way: Way, find_model: FindModel | None) -> tuple[str, ...]:
    """Takes a refiner, if there is one; gives the inputs of the sampler that it used."""
    inputs, steps = way.nodes[way.sampler]["inputs"], way.made.settings.get("steps")
    end = way.said(inputs, "end_at_step")
    found = _behind(way)
    if not isinstance(end, int) or not isinstance(steps, int) or not 0 < end < steps or len(found) != 1:
        return ()
    (second, between), *_ = found.items()
    theirs = way.nodes[second]["inputs"]
    other = _of_sampler(way, second, find_model)
    goes_on = way.said(theirs, "start_at_step") == end and way.said(theirs, "add_noise") == "disable"
    leaves = way.said(inputs, "return_with_leftover_noise") == "enable" and not way.said(inputs, "start_at_step")
    model = other.settings.get("model")
    if between or not goes_on or not leaves or model is None or other.settings.get("steps") != steps:
        return ()
    way.used.add(second)
    way.made.take("refiner", model, "refiner")
    way.made.take("refiner_switch", end / steps, "start_at_step")
    asked = ["clip_skip", *_TOLD, *(["seed"] if _draws(way.made.settings.get("sampler")) else [])]
    for name in asked:
        if other.settings.get(name) != way.made.settings.get(name):
            way.made.leave(f"{name} of the refiner", other.settings.get(name))
    if found := _loras(other):
        way.made.leave("LoRAs of the refiner", found)
    _left(way, other, "refiner")
    until, leaves_noise = way.said(theirs, "end_at_step"), way.said(theirs, "return_with_leftover_noise")
    if isinstance(until, int) and until < steps:
        way.made.leave("end_at_step of the refiner", until)
    if leaves_noise not in (None, "disable"):
        way.made.leave("return_with_leftover_noise of the refiner", leaves_noise)
    return _NEXT


def _draws(sampler: Any) -> bool:
    """Whether the steps of a sampler draw noise, which its seed decides."""
    row = SAMPLERS.get(sampler)
    return row is not None and "none" not in (row.noise, row.program_noise)


def _behind(way: Way) -> dict[str, list[str]]:
    """The samplers that take what this one made, each with the nodes between them; none where those are unknown."""
    found: dict[str, list[str]] = {}
    for name in [name for name, node in way.nodes.items() if is_sampler(node) and name != way.sampler][:20]:
        inputs, between = way.nodes[name]["inputs"], []
        at = next((link for key in _LATENTS if (link := link_of(way.nodes, inputs.get(key))) is not None), None)
        while at is not None and at != way.sampler and len(between) < 8:
            kind = way.nodes[at]["class_type"]
            onward = {**_ENLARGES, **_PASSES_ON}.get(kind)
            between.append(at)
            at = None if onward is None else link_of(way.nodes, way.nodes[at]["inputs"].get(onward))
        if at == way.sampler:
            found[name] = between
    return found


def _of_sampler(way: Way, name: str, find_model: FindModel | None) -> Gathering:
    """What another sampler is told."""
    other = type(way)(way.nodes, name)
    other.gather(find_model)
    way.used |= other.used - {name}
    return other.made


def _left(way: Way, other: Gathering, whose: str) -> None:
    """Names what the second sampler alone is told and cannot be read."""
    said = {remark.problem for remark in (*way.made.unused, *way.made.lost)}
    for remark in other.unused:
        if remark.problem not in said:
            name, _, value = remark.problem.partition(": ")
            way.made.leave(f"{name} of the {whose}", value)
    way.made.lost += [remark for remark in other.lost if remark.problem not in said]


def _loras(made: Gathering) -> str:
    return ", ".join(f"{lora.ref} ({lora.scale:g})" for lora in made.settings.get("lora", ()))


def _takes_size(way: Way, name: str) -> bool:
    """Takes how a node enlarges; False where it is no way that mlxdiff has."""
    node = way.nodes[name]
    inputs, kind = node["inputs"], node["class_type"]
    method = way.value(inputs.get("upscale_method", "nearest-exact"), "upscale_method")
    rows = [row for row in UPSCALERS.values() if row.in_latents and method in row.comfyui]
    if kind.startswith("Image"):
        rows = [UPSCALERS["lanczos"]] if method == "lanczos" else []
    size = _size(way, inputs, kind)
    if not rows or size is None:
        return False
    way.made.take(*size, kind)
    way.made.take("hires_upscaler", rows[0].name, "upscale_method")
    return True


def _size(way: Way, inputs: Mapping[str, Any], kind: str) -> tuple[str, Any] | None:
    """The setting that says how far a node enlarges, and its value; None for another shape, which ComfyUI stretches."""
    if kind.endswith("By"):
        factor = way.value(inputs.get("scale_by"), "scale_by")
        return ("hires", factor) if isinstance(factor, int | float) and 1 <= factor <= 16 else None
    width, height = (way.value(inputs.get(side), side) for side in ("width", "height"))
    own = way.made.settings.get("width"), way.made.settings.get("height")
    if not all(isinstance(side, int) and side > 0 for side in (width, height, *own)):
        return None
    return ("hires_size", f"{width}x{height}") if width * own[1] == height * own[0] else None


def _differences(way: Way, other: Gathering) -> None:
    """Takes what the second sampler is told otherwise."""
    for name in ("steps", *_TOLD):
        theirs = other.settings.get(name)
        if theirs is not None and theirs != way.made.settings.get(name):
            way.made.take(f"hires_{name}", theirs, name)
    if other.settings.get("seed") != way.made.settings.get("seed"):
        way.made.leave("seed of the second sampler", other.settings.get("seed"))
