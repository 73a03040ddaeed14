"""Masks that say where in a picture something counts, as diffusers' IPAdapterMaskProcessor reads them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import images
from ..errors import RequestError
from ..fitting import fitted
from ..remembering import remembered
from ..request.pictures import Pixels


def read_region(source: str | Pixels, height: int, width: int) -> np.ndarray:
    """A mask that a request names or holds, stretched to (height, width) pixels: 1 where it is white, 0 where black.

    Raises InputError.
    """
    scaled = fitted(images.read_mask(source), (height, width), "stretch")
    return (np.asarray(scaled, np.float32) / 255 >= 0.5).astype(np.float32)


@remembered(64)
def check_region(source: str | Pixels, _hashes: Any) -> None:
    """Raises RequestError for a mask without white, InputError for one that cannot be read."""
    if np.asarray(images.read_mask(source)).max() < 128:
        raise RequestError(
            "The mask of an ip_adapter is black all over: its picture would count nowhere.",
            "Paint white where it counts.",
        )
