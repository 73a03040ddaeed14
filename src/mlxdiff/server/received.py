"""Pictures out of a request: base64, or a file of a form. What is no picture, or a very large one, is an InputError."""

from __future__ import annotations

import base64
import binascii
import re
import threading
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..errors import InputError, RequestError
from ..images import decoded_picture
from ..rgb import layers, picture_array
from .limits import READ_PIXELS

_DATA = re.compile(r"data:image/[\w.+-]{1,40};base64,", re.ASCII | re.IGNORECASE)
_BLANKS = {ord(blank): None for blank in " \t\r\n"}
_one_at_a_time = threading.Lock()  # a picture takes several times its pixels while it is decoded


def from_base64(name: str, value: Any) -> Image.Image:
    """The picture that a text of the request holds, with or without `data:image/png;base64,` before it."""
    if not isinstance(value, str):
        raise RequestError(f"{name} is {type(value).__name__}, not text.", "Send the file's bytes in base64.")
    if re.match(r"\s*(?:https?|file)://", value[:40], re.IGNORECASE):
        raise RequestError(f"{name} is an address.", "No address is fetched: send the file's bytes in base64.")
    start = _DATA.match(value)
    try:
        data = base64.b64decode(value[0 if start is None else start.end() :].translate(_BLANKS), validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(f"{name} is not base64.", "Send the file's bytes in base64; no path is read.") from None
    return from_bytes(name, data)


def from_bytes(name: str, data: bytes) -> Image.Image:
    if not data:
        raise InputError(f"{name} is empty.", "Send a picture.")
    with _one_at_a_time:
        return decoded_picture(data, name, most=READ_PIXELS)


def pixels(picture: Image.Image) -> Image.Image | np.ndarray:
    """The picture as `Request.image` takes it: what is transparent in it is repainted."""
    return Image.fromarray(picture_array(picture))


def on_white(picture: Image.Image) -> Image.Image:
    """The picture without transparency, which A1111 fills with white (`img2img_background_color`)."""
    return layers(ImageOps.exif_transpose(picture), "The picture")[0]


def mask(picture: Image.Image, *, inverted: bool = False) -> np.ndarray:
    """A1111's mask, white where it is repainted, or where it is not (`inverted`), as (H, W) uint8."""
    colours, alpha = layers(ImageOps.exif_transpose(picture), "The mask")
    gray = colours.convert("L") if alpha is None else alpha
    return np.asarray(ImageOps.invert(gray) if inverted else gray)


def mask_of_transparency(picture: Image.Image) -> np.ndarray:
    """OpenAI's mask, transparent where it is repainted, as (H, W) uint8 with white there. Raises RequestError."""
    _, alpha = layers(ImageOps.exif_transpose(picture), "The mask")
    if alpha is None:
        raise RequestError("mask has no transparent part.", "Make transparent what is to be painted.")
    return np.asarray(ImageOps.invert(alpha))
