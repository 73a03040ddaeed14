"""How many images to denoise at once when nobody says: as many as memory takes, no more than pays."""

from __future__ import annotations

from ..pipeline import StableDiffusion
from ..request import Resolved


def default_batch_size(sd: StableDiffusion, request: Resolved) -> int:
    """Images of a resolved request's size that share a batch, 1 or more."""
    return sd.batch_size(request)
