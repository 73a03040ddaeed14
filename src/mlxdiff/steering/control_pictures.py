"""What a control sees: its picture, brought to the size that is rendered as the request's own is, and preprocessed.

A control picture of the same shape as the picture to start from is taken to lie over it: where only a part of that is
rendered, the control sees the same part.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from .. import images, masks, preprocess
from ..canvas import base_size, canvas_of, rounded_up
from ..fitting import fitted, padded, same_ratio
from ..hashing import picture_hash
from ..request import Margins, Resolved
from ..request.controls import Control


@dataclass(frozen=True)
class Look:
    """What decides what a control sees: two that are equal show the same picture.

    digest    of the control picture's content
    size      (height, width) in pixels
    step      pixels of a latent cell
    base      (height, width) of the picture over which it lies, before its margins; None where there is none
    box       the part of that picture, with its margins, that is rendered; None for all of it
    """

    digest: str
    preprocess: str | None
    size: tuple[int, int]
    fit: str
    step: int
    base: tuple[int, int] | None = None
    expand: Margins | None = None
    box: masks.Box | None = None


def look_at(control: Control, request: Resolved, size: tuple[int, int], factor: int) -> Look:
    """What a control sees in a pass of a request of (height, width) pixels; `factor` is the pixels of a latent cell.

    Raises InputError for a file that is no picture.
    """
    picture = control.image
    plain = Look(picture_hash(picture), control.preprocess, size, request.fit, factor)
    if request.image is None or (request.mask is None and request.expand is None):
        return plain
    own = base_size(request.image, None)
    if not same_ratio(images.source_size(picture), own):
        return plain
    box = canvas_of(request, factor).box if request.inpaint_area == "masked" else None
    return replace(plain, base=own, expand=request.expand, box=box)


def picture_for(control: Control, look: Look) -> np.ndarray:
    """(H, W, 3) float32 in [0, 1]. What lies outside a ready-made control picture is black, which says nothing."""
    made = np.asarray(_brought(images.read_layers(control.image)[0], look, 0 if _is_ready(control) else None))
    if not _is_ready(control):
        made = preprocess.apply(control.preprocessing, made)
    return made.astype(np.float32) / 255


def _is_ready(control: Control) -> bool:
    return control.preprocessing[0] == "none"


def _brought(picture: Image.Image, look: Look, around: int | None) -> Image.Image:
    if look.base is None:
        return fitted(picture, look.size, look.fit, around=around)
    picture = fitted(picture, look.base, "stretch")
    if look.expand is not None:
        sides = (look.expand.left, look.expand.top, look.expand.right, look.expand.bottom)
        picture = padded(picture, sides, around)
    if look.box is not None:
        return fitted(picture.crop(look.box), look.size, "pad", around=around)
    if look.size == rounded_up((picture.height, picture.width), look.step):
        more = (0, 0, look.size[1] - picture.width, look.size[0] - picture.height)
        return padded(picture, more, around)
    return fitted(picture, look.size, look.fit, around=around)
