"""Masks that say where in a picture something counts, as diffusers' IPAdapterMaskProcessor reads them."""

from __future__ import annotations

import numpy as np

from . import images
from .fitting import fitted
from .pictures import Pixels


def read_region(source: str | Pixels, height: int, width: int) -> np.ndarray:
    """A mask that a request names or holds, stretched to (height, width) pixels: 1 where it is white, 0 where black.

    Raises InputError.
    """
    scaled = fitted(images.read_mask(source), (height, width), "stretch")
    return (np.asarray(scaled, np.float32) / 255 >= 0.5).astype(np.float32)
