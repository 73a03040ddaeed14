"""Which rule of guidance a request asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx

from ..catalogue import find_sampler
from ..diffusion import guidance
from ..errors import RequestError
from ..prompts.encoding import is_guided

if TYPE_CHECKING:
    from ..families.base import Checkpoint
    from ..request import Resolved


def guidance_of(request: Resolved, checkpoint: Checkpoint, weights: tuple[float | mx.array, ...]) -> guidance.Guidance:
    """How the branches of a request become one output; `weights` are those of its parts of a prompt, if several."""
    guided = is_guided(request, embedded=checkpoint.backbone.uses_guidance_embedding)
    unguided = guidance.Composed(1.0, weights) if weights else guidance.Unguided()
    if not guided and request.pag_scale == 0:
        return unguided
    row, levels = find_sampler(request.sampler), request.noise_levels
    scale = request.guidance_scale / (row.guidance_divisor if request.compat == "a1111" else 1)
    chosen: guidance.Guidance = unguided
    if guided:
        chosen = guidance.Composed(scale, weights) if weights else guidance.ClassifierFree(scale)
        if request.image_guidance_scale is not None:
            if weights:
                raise RequestError(
                    "The prompt has several parts (AND), and this model follows one instruction.", "Give one prompt."
                )
            chosen = guidance.Pix2Pix(scale, request.image_guidance_scale)
    if request.pag_scale > 0:
        chosen = guidance.Perturbed(chosen, request.pag_scale)
    if guided and request.guidance_rescale > 0:
        chosen = guidance.Rescaled(chosen, request.guidance_rescale, levels.to_output, levels.to_denoised)
    if request.guidance_interval == (0, 1):
        return chosen
    low, high = guidance.interval_of(levels.sigmas, *request.guidance_interval)
    return guidance.InInterval(chosen, low, high, unguided)
