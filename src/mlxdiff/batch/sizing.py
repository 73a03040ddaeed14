"""The default batch size: as many images as fit into memory, and no more than makes it faster."""

from __future__ import annotations

from ..pipeline import StableDiffusion
from ..request import Resolved


def default_batch_size(sd: StableDiffusion, request: Resolved) -> int:
    """Images of a resolved request's size that share a batch, 1 or more."""
    return sd.batch_size(request)
