"""Masks as 8-bit pictures of one channel, 255 where something is repainted, and what is made of them.

Blur, the region of a mask, and the colours that fill it are A1111's.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

HALF = 128  # from here on a pixel counts as masked
# Radii in pixels, and how often each blurred copy is laid on: the last that covers a pixel decides its colour.
_SPREADING = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1))

Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels."""


def blurred(mask: Image.Image, sigma: float) -> Image.Image:
    """The mask blurred by a Gaussian of `sigma` pixels, cut off after 2.5 of them, first along rows."""
    if sigma <= 0:
        return mask
    reach = int(2.5 * sigma + 0.5)
    places = np.arange(-reach, reach + 1)
    weights = np.exp(-(places**2) / (2 * sigma * sigma))
    weights /= weights.sum()
    levels = np.asarray(mask, np.float64)
    for axis in (1, 0):
        around = [(reach, reach) if axis == side else (0, 0) for side in (0, 1)]
        wide = np.pad(levels, around, "reflect" if min(levels.shape) > reach else "edge")
        length = levels.shape[axis]
        parts = (wide.take(range(i, i + length), axis=axis) * weight for i, weight in enumerate(weights))
        levels = np.rint(sum(parts, np.zeros(levels.shape)))
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


def region_of(mask: Image.Image, size: tuple[int, int], padding: int) -> Box:
    """What is rendered where only the masked part is: its bounds and `padding` pixels around them.

    The box is widened to the ratio of `size`, (height, width), as far as the picture reaches.
    """
    found = mask.getbbox()
    assert found is not None
    left, top, right, bottom = found
    left, top = max(left - padding, 0), max(top - padding, 0)
    right, bottom = min(right + padding, mask.width), min(bottom + padding, mask.height)
    wanted = size[1] / size[0]
    if (right - left) / (bottom - top) > wanted:
        top, bottom = _widened(top, bottom, int((right - left) / wanted), mask.height)
    else:
        left, right = _widened(left, right, int((bottom - top) * wanted), mask.width)
    return left, top, right, bottom


def _widened(start: int, end: int, length: int, limit: int) -> tuple[int, int]:
    """A span made `length` long around its middle, moved to lie between 0 and `limit`."""
    more = length - (end - start)
    start, end = start - more // 2, end + more - more // 2
    if end > limit:
        start, end = start - (end - limit), limit
    if start < 0:
        start, end = 0, min(end - start, limit)
    return start, end


def colour_filled(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """The RGB picture whose masked part has the colours around it, the more blurred the further inside."""
    kept = Image.composite(Image.new("L", mask.size, 0), Image.new("L", mask.size, 255), mask)
    opaque = Image.merge("RGBA", (*picture.split(), kept)).convert("RGBa")
    made = Image.new("RGBA", picture.size)
    for radius, times in _SPREADING:
        layer = opaque.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(times):
            made.alpha_composite(layer)
    return made.convert("RGB")


def nearest_cells(mask: np.ndarray, factor: int) -> np.ndarray:
    """(h, w) of 0 and 1: the pixel in the corner of each cell, as diffusers reads a mask (H, W) in [0, 1].

    A mask that falls between these pixels counts in every cell that it touches.
    """
    chosen = (mask >= 0.5).astype(np.float32)
    cells = chosen[::factor, ::factor]
    if not cells.any():
        h, w = cells.shape
        cells = chosen.reshape(h, factor, w, factor).max((1, 3))
    return cells


def rounded_cells(mask: np.ndarray, factor: int) -> np.ndarray:
    """(h, w) of 0 and 1: the mask scaled down by a bicubic filter and rounded, as A1111 reads it."""
    levels = Image.fromarray(np.rint(mask * 255).astype(np.uint8))
    small = levels.resize((levels.width // factor, levels.height // factor), Image.Resampling.BICUBIC)
    return np.rint(np.asarray(small, np.float32) / 255)


def linear_cells(mask: np.ndarray, factor: int) -> np.ndarray:
    """(h, w) in [0, 1]: the mean of the pixels around each cell's middle, as ComfyUI reads a mask."""
    if factor == 1:
        return mask
    first, last = (mask[start::factor] for start in (factor // 2 - 1, factor // 2))
    rows = (first + last) / 2
    return (rows[:, factor // 2 - 1 :: factor] + rows[:, factor // 2 :: factor]) / 2
