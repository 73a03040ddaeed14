"""Pictures that lie over the picture to start from: a control's, or where an IP-Adapter counts.

One of the same shape is taken to lie over it. Where only a part of that is rendered, or margins are added to it, the
same is done to what lies over it.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from .. import images, masks
from ..canvas import base_size, canvas_of, rounded_up
from ..fitting import fitted, padded, same_ratio
from ..request import Margins, Resolved
from ..request.pictures import Pixels


@dataclass(frozen=True)
class Overlay:
    """How a picture is brought to what is rendered.

    base    (height, width) in pixels of the picture over which it lies, before its margins
    expand  those margins
    box     the part of that picture, with its margins, that is rendered; None for all of it
    fit     how all of it is brought to a size of another shape
    step    pixels of a latent cell
    """

    base: tuple[int, int]
    expand: Margins | None
    box: masks.Box | None
    fit: str
    step: int


def overlay_of(source: str | Pixels, request: Resolved, factor: int) -> Overlay | None:
    """How a picture lies over the one of which a request repaints a part; None where it does not lie over any.

    factor  pixels of a latent cell. Raises InputError for a file that is no picture.
    """
    if request.image is None or (request.mask is None and request.expand is None):
        return None
    base = base_size(request.image, None)
    if not same_ratio(images.source_size(source), base):
        return None
    box = canvas_of(request, factor).box if request.inpaint_area == "masked" else None
    return Overlay(base, request.expand, box, request.fit, factor)


def laid(picture: Image.Image, overlay: Overlay, size: tuple[int, int], around: int | None) -> Image.Image:
    """What of a picture lies over what is rendered, at (height, width) pixels; `around` it is this, or its edges."""
    picture = fitted(picture, overlay.base, "stretch")
    expand = overlay.expand
    if expand is not None:
        picture = padded(picture, (expand.left, expand.top, expand.right, expand.bottom), around)
    if overlay.box is not None:
        return fitted(picture.crop(overlay.box), size, "pad", around=around)
    if size == rounded_up((picture.height, picture.width), overlay.step):
        return padded(picture, (0, 0, size[1] - picture.width, size[0] - picture.height), around)
    return fitted(picture, size, overlay.fit, around=around)
