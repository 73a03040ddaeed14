"""A picture as CLIP's image encoder reads it: scaled, cropped and normalized, with Pillow and numpy alone."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .. import budget, images
from ..errors import InputError
from ..request.pictures import Pixels

# Of the pictures that CLIP was trained on (Radford et al. 2021, the published code).
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
_NEEDED = 12  # bytes a pixel: Pillow's copies of a scaled picture


def clip_pixels(source: str | Pixels, size: int) -> np.ndarray:
    """A picture that a request names or holds as (size, size, 3) float32, as transformers' CLIPImageProcessor makes it.

    The shorter side becomes `size` pixels (bicubic, rounded to 8 bits), and the middle is kept. Raises InputError.
    """
    picture, _ = images.read_layers(source)
    width, height = picture.size
    short = min(width, height)
    # The longer side is rounded down; no less than `size`, which is what a square is cut from.
    width, height = (max(size, int(size * side / short)) for side in (width, height))
    if not budget.fits(_NEEDED * width * height):
        raise InputError(
            f"The picture, {picture.size[0]}x{picture.size[1]} pixels, {budget.lack(_NEEDED * width * height)}.",
            "It is much longer than wide: crop it first.",
        )
    scaled = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
    top, left = (height - size) // 2, (width - size) // 2
    cropped = (scaled[top : top + size, left : left + size].astype(np.float64) * (1 / 255)).astype(np.float32)
    return (cropped - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
