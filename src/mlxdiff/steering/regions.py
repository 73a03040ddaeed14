"""Masks that say where in a picture something counts, as diffusers' IPAdapterMaskProcessor reads them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import images
from ..errors import RequestError
from ..fitting import fitted
from ..remembering import remembered
from ..request.pictures import Pixels
from .overlays import Overlay, laid


def read_region(source: str | Pixels, height: int, width: int, overlay: Overlay | None = None) -> np.ndarray:
    """A mask that a request names or holds at (height, width) pixels: 1 where it is white, 0 where black.

    It is stretched to them, or lies as `overlay` says over the picture to start from, and its edges go on where that
    ends. Raises InputError.
    """
    mask, size = images.read_mask(source), (height, width)
    scaled = fitted(mask, size, "stretch") if overlay is None else laid(mask, overlay, size, None)
    return (np.asarray(scaled, np.float32) / 255 >= 0.5).astype(np.float32)


@remembered(64)
def check_region(source: str | Pixels, _hashes: Any) -> None:
    """Raises RequestError for a mask without white, InputError for one that cannot be read."""
    if np.asarray(images.read_mask(source)).max() < 128:
        raise RequestError(
            "The mask of an ip_adapter is black all over: its picture would count nowhere.",
            "Paint white where it counts.",
        )
