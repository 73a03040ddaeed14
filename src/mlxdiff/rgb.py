"""Any PIL image as 8-bit RGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .errors import InputError


def picture_array(picture: Image.Image) -> np.ndarray:
    """A PIL image as (H, W, 3) uint8: upright, and on white where it is transparent. Raises InputError."""
    return np.asarray(to_rgb(ImageOps.exif_transpose(picture), "The picture"), dtype=np.uint8)


def to_rgb(picture: Image.Image, path: str | Path) -> Image.Image:
    """The picture on white, 16 bits rounded to 8; `path` names it in errors. Raises InputError."""
    if picture.mode == "F":
        raise InputError(f"{path} holds floating-point numbers.", "Convert it to 8 or 16 bits.")
    if picture.mode.startswith("I"):  # one channel of 16 bits, which Pillow would clip to 8
        levels = np.asarray(picture).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise InputError(f"{path} has 32 bits a pixel.", "Convert it to 8 or 16 bits.")
        grays = ((levels + 128) // 257).astype(np.uint8)
        clear = picture.info.get("transparency")
        return Image.fromarray(np.where(levels == clear, 255, grays).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")
