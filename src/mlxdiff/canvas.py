"""What is drawn on: a request's picture and mask at the size that is rendered, and how the result goes back into it.

    picture, mask --expand--> base --blur--> region --fit--> what the network is given
    what it made  --scale back--> pasted into the base through the mask

Knows neither latents nor MLX. The base is kept in 8 bits, so that what is not masked stays as it was, byte for byte.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from . import budget, images, masks
from .errors import InputError, MlxdiffWarning, RequestError
from .fitting import fitted, padded, same_ratio
from .remembering import remembered
from .request import Margins, Request
from .request.pictures import ALPHA, Pixels

KEPT, KEPT_BYTES = 8, 2**28  # canvases; one of 1024x1024 pixels takes 21 MB, and of a photo the whole is kept
_BYTES = 48  # a pixel: the picture and the mask in 8 bits and as floats, and copies on the way


@dataclass(frozen=True, eq=False)
class Canvas:
    """A picture at the size (H, W) that is rendered.

    picture  (H, W, 3) float32 in [0, 1]
    filled   the same, with the masked part filled with the colours around it where that is asked for
    mask     (H, W) float32 in [0, 1], 1 where it is repainted; None where all of the picture is
    base     (H0, W0, 3) uint8, into which the result is pasted
    alpha    (H0, W0) uint8: how much of the result is pasted there
    box      the part of the base that is rendered; it may reach beyond the base's right and bottom edge
    """

    picture: np.ndarray
    filled: np.ndarray
    mask: np.ndarray | None = None
    base: np.ndarray | None = None
    alpha: np.ndarray | None = None
    box: masks.Box = (0, 0, 0, 0)

    @property
    def nbytes(self) -> int:
        arrays = {
            id(x): x.nbytes for x in (self.picture, self.filled, self.mask, self.base, self.alpha) if x is not None
        }
        return sum(arrays.values())


def canvas_of(request: Request, factor: int) -> Canvas:
    """The canvas of a request that has an image, and no unset field with a neutral value. Raises InputError.

    `factor` is the pixels of a latent cell.
    """
    if request.height is None or request.width is None or request.fit is None:
        raise InputError("It does not say at which size it was rendered.", "Get the file again.")
    size = request.height, request.width
    asked = (request.fit, request.mask_blur or 0.0, request.inpaint_fill, request.inpaint_area, request.inpaint_padding)
    return _canvas(request.image, request.mask, request.expand, request.hashes, size, asked, request.compat, factor)


@remembered(KEPT, most_bytes=KEPT_BYTES, nbytes=lambda canvas: canvas.nbytes)
def _canvas(
    image: str | Pixels,
    mask: str | Pixels | None,
    expand: Margins | None,
    _hashes: Any,  # of what the names stand for: another content is another canvas
    size: tuple[int, int],
    asked: tuple[str, float, str | None, str | None, int | None],
    compat: str | None,
    factor: int,
) -> Canvas:
    fit, blur, fill, area, padding = asked
    base, shape = _base(image, mask, expand)
    if shape is None:
        picture = _floats(fitted(base, size, fit))
        return Canvas(picture, picture)
    shape = masks.blurred(shape, blur)
    if np.asarray(shape).max() < masks.HALF:
        raise InputError(f"A mask_blur of {blur:g} pixels leaves nothing of the mask.", "Blur less, or paint more.")
    alpha, box = shape, (0, 0, base.width, base.height)
    if area == "masked":
        box = masks.region_of(shape, size, padding or 0)
        drawn, drawn_mask = (fitted(layer.crop(box), size, "pad") for layer in (base, shape))
    elif size == rounded_up((base.height, base.width), factor):
        box = (0, 0, size[1], size[0])
        more = (0, 0, size[1] - base.width, size[0] - base.height)
        drawn, drawn_mask = padded(base, more), padded(shape, more, 0)
    else:
        base, shape = fitted(base, size, fit), fitted(shape, size, fit, around=0)
        drawn, drawn_mask, alpha, box = base, shape, shape, (0, 0, size[1], size[0])
    if compat == "a1111" and area != "masked":  # the blur is outside the mask alone
        alpha = alpha.point([min(2 * level, 255) for level in range(256)])
    filled = drawn if fill in (None, "original") else masks.colour_filled(drawn, drawn_mask)
    return Canvas(
        picture=_floats(drawn),
        filled=_floats(filled),
        mask=np.asarray(drawn_mask, np.float32) / 255,
        base=np.asarray(base),
        alpha=np.asarray(alpha),
        box=box,
    )


def pasted(canvas: Canvas, rendered: np.ndarray) -> np.ndarray:
    """What was rendered, (H, W, 3) uint8, in the picture that it is a part of: (H0, W0, 3) uint8."""
    if canvas.base is None or canvas.alpha is None:
        return rendered
    base, alpha = Image.fromarray(canvas.base), Image.fromarray(canvas.alpha)
    grown = rendered.shape[0] / canvas.picture.shape[0]
    if grown != 1:  # what was rendered has been enlarged since
        size = round(base.height * grown), round(base.width * grown)
        base, alpha = (fitted(layer, size, "stretch") for layer in (base, alpha))
    left, top, right, bottom = (round(side * grown) for side in canvas.box)
    laid = base.copy()
    laid.paste(fitted(Image.fromarray(rendered), (bottom - top, right - left), "crop"), (left, top))
    return np.asarray(Image.composite(laid, base, alpha))


def finished_size(request: Request, size: tuple[int, int], factor: int) -> tuple[int, int]:
    """(height, width) of the finished picture, of which `size` are rendered. Raises InputError."""
    if request.image is None or not request.keeps_a_part:
        return size
    own = base_size(request.image, request.expand)
    return own if request.inpaint_area == "masked" or size == rounded_up(own, factor) else size


def rounded_up(size: tuple[int, int], factor: int) -> tuple[int, int]:
    """The size of which both sides are multiples of `factor` and at least as long."""
    return -(-size[0] // factor) * factor, -(-size[1] // factor) * factor


def base_size(image: str | Pixels, expand: Margins | None) -> tuple[int, int]:
    """(height, width) in pixels of the picture with its margins."""
    height, width = images.source_size(image)
    if expand is None:
        return height, width
    return height + expand.top + expand.bottom, width + expand.left + expand.right


@remembered(64)
def check_mask(image: str | Pixels, mask: str | Pixels | None, expand: Margins | None, _hashes: Any) -> None:
    """Raises RequestError for a mask that masks nothing, InputError for one that cannot be read."""
    _, shape = _base(image, mask, expand)
    if shape is not None and np.asarray(shape).max() < masks.HALF:
        what = "The picture has no transparent part" if mask == ALPHA else "The mask is black all over"
        raise RequestError(f"{what}: nothing would be repainted.", "Paint white what is to be repainted.")


@remembered(64)
def is_transparent(image: str | Pixels, _hashes: Any) -> bool:
    """Whether a part of the picture is transparent."""
    alpha = images.read_layers(image)[1] if images.may_be_transparent(image) else None
    return alpha is not None and bool(np.asarray(alpha).min() < masks.HALF)


def _base(
    image: str | Pixels, mask: str | Pixels | None, expand: Margins | None
) -> tuple[Image.Image, Image.Image | None]:
    """The picture with its margins, and what of it is masked, both of one size."""
    base, alpha = images.read_layers(image)
    shape = None
    if mask == ALPHA:
        alpha = Image.new("L", base.size, 255) if alpha is None else alpha
        shape = alpha.point(lambda level: 255 - level)
    elif mask is not None:
        shape = _of_size(images.read_mask(mask), (base.height, base.width))
    if expand is not None:
        _check_size(base_size(image, expand))
        shape = Image.new("L", base.size, 0) if shape is None else shape
        margins = (expand.left, expand.top, expand.right, expand.bottom)
        base, shape = padded(base, margins), padded(shape, margins, 255)
    return base, shape


def _check_size(size: tuple[int, int]) -> None:
    needed = _BYTES * size[0] * size[1]
    if not budget.fits(needed):
        raise RequestError(
            f"The picture with its margins, {size[1]}x{size[0]} pixels, {budget.lack(needed)}.", "Add fewer pixels."
        )


def _of_size(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    own = mask.height, mask.width
    if own == size:
        return mask
    if not same_ratio(own, size):
        text = (
            f"The mask is {own[1]}x{own[0]} pixels and the picture {size[1]}x{size[0]}, another shape: the mask is"
            " stretched over it."
        )
        warnings.warn(MlxdiffWarning(text), stacklevel=2)
    return fitted(mask, size, "stretch")


def _floats(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=np.float32) / 255
