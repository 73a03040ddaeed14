"""Control pictures made from photos: what needs no model. NumPy and Pillow alone; (H, W, 3) uint8 in and out.

canny[:LOW[:HIGH]]  edges (Canny 1986), white on black, as OpenCV draws them; thresholds of the gradient, 100 and 200
blur[:SIGMA]        Gaussian blur, 9 pixels
resize[:FACTOR]     made smaller by a factor (8) and as large as before again: what a tile ControlNet sharpens
invert              black lines on white to white lines on black
none                the picture as it is
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

# tan(22.5 degrees) in 15 bits after the point: what tells the four directions of a gradient apart.
_TAN_22, _BITS = 13573, 15


def apply(how: tuple[str, tuple[float, ...]], picture: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) uint8 by one of METHODS, with its numbers."""
    name, numbers = how
    return METHODS[name](picture, *numbers)


def canny(picture: np.ndarray, low: float = 100, high: float = 200) -> np.ndarray:
    """Edges of a picture (H, W, 3) uint8 as OpenCV's `Canny` finds them: white (H, W, 3) on black.

    Sobel's 3 x 3 gradient of the channel in which it is largest, by its L1 norm. An edge is a maximum along the
    gradient above `low` that is joined to one above `high`.
    """
    dx, dy = _gradient(picture.astype(np.int32))
    low, high = np.floor(min(low, high)), np.floor(max(low, high))
    size = np.abs(dx) + np.abs(dy)
    edges = _joined((size > low) & _is_maximum(dx, dy, size), size > high)
    return np.repeat(np.where(edges, np.uint8(255), np.uint8(0))[..., None], 3, axis=-1)


def blur(picture: np.ndarray, sigma: float = 9) -> np.ndarray:
    """A picture (H, W, 3) uint8 blurred by a Gaussian of `sigma` pixels, as Pillow approximates it."""
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(sigma)))


def resize(picture: np.ndarray, factor: float = 8) -> np.ndarray:
    """A picture (H, W, 3) uint8 of which each `factor` x `factor` pixels are one color, smoothed to its size again."""
    height, width = picture.shape[:2]
    small = (max(1, round(width / factor)), max(1, round(height / factor)))
    smaller = Image.fromarray(picture).resize(small, Image.Resampling.BOX)
    return np.asarray(smaller.resize((width, height), Image.Resampling.BICUBIC))


def invert(picture: np.ndarray) -> np.ndarray:
    """The negative of a picture (H, W, 3) uint8."""
    return 255 - picture


METHODS: dict[str, Callable[..., np.ndarray]] = {
    "none": lambda picture: picture,
    "canny": canny,
    "blur": blur,
    "resize": resize,
    "invert": invert,
}


def _gradient(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) each: Sobel's derivatives of the channel whose gradient is largest, the first of equals."""
    x = np.pad(picture, [(1, 1), (1, 1), (0, 0)], mode="edge")
    across = x[:, 2:] - x[:, :-2]
    down = x[2:] - x[:-2]
    dx = across[:-2] + 2 * across[1:-1] + across[2:]
    dy = down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]
    largest = np.argmax(np.abs(dx) + np.abs(dy), axis=-1)[..., None]
    return tuple(np.take_along_axis(each, largest, axis=-1)[..., 0] for each in (dx, dy))  # type: ignore[return-value]


def _is_maximum(dx: np.ndarray, dy: np.ndarray, size: np.ndarray) -> np.ndarray:
    """(H, W): whether the gradient is larger than behind and before it, along the nearest of four directions."""
    around = np.pad(size, 1)
    height, width = size.shape

    def at(y: int, x: int) -> np.ndarray:
        return around[1 + y : 1 + y + height, 1 + x : 1 + x + width]

    slope = np.abs(dx).astype(np.int64) * _TAN_22
    steep = slope + (np.abs(dx).astype(np.int64) << (_BITS + 1))
    rise = np.abs(dy).astype(np.int64) << _BITS
    horizontal = (size > at(0, -1)) & (size >= at(0, 1))
    vertical = (size > at(-1, 0)) & (size >= at(1, 0))
    falling = (size > at(-1, -1)) & (size > at(1, 1))
    rising = (size > at(-1, 1)) & (size > at(1, -1))
    diagonal = np.where((dx ^ dy) < 0, rising, falling)
    return np.where(rise < slope, horizontal, np.where(rise > steep, vertical, diagonal))


def _joined(candidates: np.ndarray, strong: np.ndarray) -> np.ndarray:
    """The candidates that are strong, and all that touch one of these, also at a corner."""
    height, width = candidates.shape
    left = np.pad(candidates, 1).ravel()  # a frame of False, so that no neighbour is outside
    edges = np.zeros_like(left)
    frontier = np.flatnonzero(np.pad(candidates & strong, 1))
    row = width + 2
    neighbours = np.array([-row - 1, -row, -row + 1, -1, 1, row - 1, row, row + 1])
    while frontier.size:
        edges[frontier], left[frontier] = True, False
        found = (frontier[:, None] + neighbours).ravel()
        frontier = np.unique(found[left[found]])
    return edges.reshape(height + 2, width + 2)[1:-1, 1:-1]
