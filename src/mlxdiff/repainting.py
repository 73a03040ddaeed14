"""The settings that go with a request's pictures, filled in and judged: before anything is loaded.

Each checkpoint takes other ones: what it takes behind the latents is `Checkpoint.takes`.
"""

from __future__ import annotations

import warnings
from typing import Any

from . import canvas
from .diffusion.programs import PROGRAMS
from .errors import MlxdiffWarning, RequestError
from .families import Checkpoint
from .families.base import DEPTH, MASKED, PICTURE
from .request import Request
from .request.pictures import ALPHA

STRENGTH, REPAINTED = 0.8, 1.0
BLUR = 4.0  # pixels, A1111's
PADDING = 32
IMAGE_GUIDANCE = 1.5
_OF_IMAGES = {"strength": "strength", "mask": "mask", "expand": "margin to expand"}
Hashes = tuple[tuple[str, str], ...]
_OF_MASKS = ("mask_blur", "inpaint_fill", "inpaint_area", "inpaint_padding")


def settled(request: Request, checkpoint: Checkpoint, hashes: Hashes) -> dict[str, Any]:
    """The values of these settings where they apply; `hashes` are of the files that the request names.

    Raises RequestError and InputError.
    """
    _check(request, checkpoint)
    if request.image is None:
        return {}
    found: dict[str, Any] = {}
    if checkpoint.takes == PICTURE:
        scale = request.image_guidance_scale
        return {"image_guidance_scale": IMAGE_GUIDANCE if scale is None else scale}
    mask = request.mask
    if mask is None and (checkpoint.takes == MASKED or request.compat not in PROGRAMS):
        mask = ALPHA if canvas.is_transparent(request.image, hashes) else None
        if mask is not None and checkpoint.takes != MASKED and request.expand is None:
            text = (
                "A part of the picture is transparent, and is repainted; the rest stays. Another mask says otherwise."
            )
            warnings.warn(MlxdiffWarning(text), stacklevel=2)
    masked = mask is not None or request.expand is not None
    found["strength"] = (REPAINTED if masked else STRENGTH) if request.strength is None else request.strength
    if not masked:
        _check_masked(request, checkpoint)
        return found
    defaults = {
        "mask_blur": BLUR if request.compat == "a1111" else 0.0,
        "inpaint_fill": "original" if request.expand is None else "fill",
        "inpaint_area": "whole",
        "inpaint_padding": PADDING if request.inpaint_area == "masked" else None,
    }
    found["mask"] = mask
    found |= {name: value for name, value in defaults.items() if getattr(request, name) is None}
    canvas.check_mask(request.image, mask, request.expand, hashes)
    return found


def _check(request: Request, checkpoint: Checkpoint) -> None:
    for name, what in _OF_IMAGES.items():
        if getattr(request, name) is not None and request.image is None:
            raise RequestError(f"There is a {what} but no image.", "Give the image to start from.")
    if request.image is None and checkpoint.takes == MASKED:
        raise RequestError(
            "This model repaints a part of a picture, and there is no picture.",
            "Give --image and --mask, a picture that is white where to repaint; or use a text-to-image model.",
        )
    if request.image is None and checkpoint.takes == PICTURE:
        raise RequestError(
            "This model edits a picture as the prompt says, and there is no picture.",
            "Give it with --image, or use a text-to-image model.",
        )
    if checkpoint.takes == PICTURE:
        for name in ("strength", "mask", "expand"):
            if getattr(request, name) is not None:
                raise RequestError(
                    f"This model edits a whole picture by the prompt's instruction: it takes no {name}.",
                    f"Leave {name} out, and say how much to keep with image_guidance_scale.",
                )
    elif request.image_guidance_scale is not None:
        raise RequestError(
            "This model does not edit by instructions: it has no image_guidance_scale.",
            "Leave it out, or use an InstructPix2Pix model.",
        )
    if checkpoint.takes == DEPTH and request.depth is None:
        raise RequestError(
            "This model takes a depth map beside the prompt, and there is none.",
            "Give one with --depth, a picture whose near parts are white; or use a text-to-image model.",
        )
    if checkpoint.takes != DEPTH and request.depth is not None:
        raise RequestError("This model takes no depth map.", "Leave depth out, or use a depth-to-image model.")
    given = next((name for name in _OF_MASKS if getattr(request, name) is not None), None)
    if given is not None and request.image is None:
        raise RequestError(f"There is {given} but no mask.", "Give --image and --mask, or leave it out.")
    if request.inpaint_padding is not None and request.inpaint_area != "masked":
        raise RequestError(
            "inpaint_padding says how much is rendered around the masked part, and the whole picture is rendered.",
            "Add inpaint_area masked, or leave it out.",
        )


def _check_masked(request: Request, checkpoint: Checkpoint) -> None:
    """What asks for a mask where there is none."""
    if checkpoint.takes == MASKED:
        raise RequestError(
            "This model repaints a part of a picture, and nothing says which.",
            "Give --mask, a picture that is white where to repaint, or use a text-to-image model.",
        )
    given = next((name for name in _OF_MASKS if getattr(request, name) is not None), None)
    if given is not None:
        raise RequestError(f"There is {given} but no mask.", "Give --mask, or leave it out.")
