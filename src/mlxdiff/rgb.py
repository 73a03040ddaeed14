"""Any PIL image as 8-bit RGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .errors import InputError


def picture_array(picture: Image.Image) -> np.ndarray:
    """A PIL image, upright, as (H, W, 3) uint8; (H, W, 4) where a part of it is transparent. Raises InputError."""
    upright = ImageOps.exif_transpose(picture)
    colours, alpha = layers(upright, "The picture")
    transparent = alpha is not None and not upright.mode.startswith("I")
    return np.asarray(upright.convert("RGBA") if transparent else colours, dtype=np.uint8)


def layers(picture: Image.Image, path: str | Path) -> tuple[Image.Image, Image.Image | None]:
    """The picture on white as `to_rgb` has it, and its opacity, 8 bits; None where all of it is opaque."""
    colours = to_rgb(picture, path)
    if not picture.has_transparency_data:
        return colours, None
    if picture.mode.startswith("I"):
        clear = np.asarray(picture).astype(np.int64) == picture.info["transparency"]
        alpha = Image.fromarray(np.where(clear, 0, 255).astype(np.uint8))
    else:
        alpha = picture.convert("RGBA").getchannel("A")
    return colours, None if alpha.getextrema()[0] == 255 else alpha


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
