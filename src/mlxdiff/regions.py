"""Masks that say where in a picture something counts, at the sizes of a network's feature maps.

As diffusers' IPAdapterMaskProcessor makes them: first 0 or 1 for each pixel of the picture, then, at each size, the
bicubic interpolation that torch computes, which may leave [0, 1] a little.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from . import images
from .errors import RequestError
from .pictures import Pixels
from .remembering import remembered

_A = -0.75  # of Keys' cubic (1981), as torch takes it


def read_region(source: str | Pixels, height: int, width: int) -> np.ndarray:
    """A mask that a request names or holds, stretched to (height, width) pixels: 1 where it is white, 0 where black.

    Raises InputError.
    """
    picture = Image.fromarray(images.to_uint8(images.read_source(source)))
    scaled = picture.resize((width, height), Image.Resampling.LANCZOS).convert("L")
    return (np.asarray(scaled, np.float32) / 255 >= 0.5).astype(np.float32)


@remembered(64)
def check_region(source: str | Pixels, _hashes: Any) -> None:
    """Raises RequestError for a mask without white, InputError for one that cannot be read."""
    picture = Image.fromarray(images.to_uint8(images.read_source(source))).convert("L")
    if np.asarray(picture).max() < 128:
        raise RequestError(
            "The mask of an ip_adapter is black all over: its picture would count nowhere.",
            "Paint white where it counts.",
        )


def resampled(region: np.ndarray, height: int, width: int) -> np.ndarray:
    """A region (H, W) at another size: (height, width) fp32, by torch's bicubic interpolation without a filter."""
    down, across = _weights(region.shape[0], height), _weights(region.shape[1], width)
    return (down @ region.astype(np.float64) @ across.T).astype(np.float32)


def _weights(size: int, wanted: int) -> np.ndarray:
    """(wanted, size): what each point of the new side takes of those of the old one."""
    centre = (np.arange(wanted) + 0.5) * (size / wanted) - 0.5
    first = np.floor(centre)
    found = np.zeros((wanted, size))
    for offset in (-1, 0, 1, 2):
        distance = np.abs(centre - first - offset)
        near = ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
        far = ((_A * distance - 5 * _A) * distance + 8 * _A) * distance - 4 * _A
        columns = np.clip(first + offset, 0, size - 1).astype(int)
        np.add.at(found, (np.arange(wanted), columns), np.where(distance <= 1, near, far))
    return found
