"""A picture brought to another size: cropped, padded or stretched, always with Lanczos' filter.

Works on PIL images of any number of channels. The sizes of `pad` are those of A1111's "Resize and fill".
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

_LANCZOS = Image.Resampling.LANCZOS


def fitted(picture: Image.Image, size: tuple[int, int], fit: str, *, around: int | None = None) -> Image.Image:
    """The picture at `size`, (height, width) in pixels.

    crop     it covers the size, and what is outside is cut off evenly
    pad      all of it is inside; around it its outermost pixels are repeated, or there is the value `around`
    stretch  each side on its own
    """
    height, width = size
    if picture.size == (width, height):
        return picture
    if fit == "stretch":
        return picture.resize((width, height), _LANCZOS)
    if fit == "crop":
        return ImageOps.fit(picture, (width, height), _LANCZOS)
    wide = width / height < picture.width / picture.height
    inner_width = width if wide else max(1, picture.width * height // picture.height)
    inner_height = max(1, picture.height * width // picture.width) if wide else height
    inner = picture.resize((min(inner_width, width), min(inner_height, height)), _LANCZOS)
    left, top = width // 2 - inner.width // 2, height // 2 - inner.height // 2
    return padded(inner, (left, top, width - inner.width - left, height - inner.height - top), around)


def padded(picture: Image.Image, margins: tuple[int, int, int, int], around: int | None = None) -> Image.Image:
    """The picture with margins (left, top, right, bottom) in pixels: its outermost pixels, or the value `around`."""
    left, top, right, bottom = margins
    if not any(margins):
        return picture
    array = np.asarray(picture)
    widths = ((top, bottom), (left, right), (0, 0))[: array.ndim]
    made = np.pad(array, widths, "edge") if around is None else np.pad(array, widths, constant_values=around)
    return Image.fromarray(made)


def same_ratio(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether two sizes differ in scale alone, up to the rounding of a pixel."""
    return abs(a[0] * b[1] - a[1] * b[0]) <= max(*a, *b)
