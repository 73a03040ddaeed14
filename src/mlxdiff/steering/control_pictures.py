"""What a control sees: its picture, brought to the size that is rendered as the request's own is, and preprocessed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from .. import images, preprocess
from ..fitting import fitted
from ..hashing import picture_hash
from ..request import Resolved
from ..request.controls import Control
from .overlays import Overlay, laid, overlay_of


@dataclass(frozen=True)
class Look:
    """What decides what a control sees: two that are equal show the same picture.

    digest   of the control picture's content
    size     (height, width) in pixels
    overlay  how it lies over the picture to start from; None where it does not
    """

    digest: str
    preprocess: str | None
    size: tuple[int, int]
    fit: str
    overlay: Overlay | None


def look_at(control: Control, request: Resolved, size: tuple[int, int], factor: int) -> Look:
    """What a control sees in a pass of a request of (height, width) pixels; `factor` is the pixels of a latent cell.

    Raises InputError for a file that is no picture.
    """
    digest = picture_hash(control.image)
    return Look(digest, control.preprocess, size, request.fit, overlay_of(control.image, request, factor))


def picture_for(control: Control, look: Look) -> np.ndarray:
    """(H, W, 3) float32 in [0, 1]. What lies outside a ready-made control picture is black, which says nothing."""
    made = np.asarray(_brought(images.read_layers(control.image)[0], look, 0 if _is_ready(control) else None))
    if not _is_ready(control):
        made = preprocess.apply(control.preprocessing, made)
    return made.astype(np.float32) / 255


def _is_ready(control: Control) -> bool:
    return control.preprocessing[0] == "none"


def _brought(picture: Image.Image, look: Look, around: int | None) -> Image.Image:
    if look.overlay is None:
        return fitted(picture, look.size, look.fit, around=around)
    return laid(picture, look.overlay, look.size, around)
