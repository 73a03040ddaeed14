"""NovelAI's other way to keep metadata: in the lowest bit of each pixel's alpha, column by column.

The bits spell `stealth_pngcomp`, a length in bits (32 bits, big-endian), and that much gzip of JSON: an object of the
texts that the PNG file would hold. `stealth_pnginfo` is the same without gzip, and holds A1111's text where it is no
object. This needs the pixels, so only small pictures that have an alpha channel are searched.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from ..errors import MlxdiffError
from ..images import open_picture
from ..recipes.recipe import object_of

MAX_PIXELS = 2**24
_MAX_TEXT = 2**22  # bytes
_MAGIC = {b"stealth_pngcomp": True, b"stealth_pnginfo": False}
_LENGTH = 15  # bytes of the magic words


def read(path: str | Path, size: tuple[int, int]) -> dict[str, str]:
    """The texts hidden in a PNG file of (width, height) pixels, by name; nothing where there are none."""
    if size[0] * size[1] > MAX_PIXELS:
        return {}
    try:
        with open_picture(path) as picture:
            if picture.mode not in ("RGBA", "LA"):
                return {}
            alpha = np.asarray(picture.getchannel("A"))
    except MlxdiffError:
        return {}
    bits = (alpha & 1).T.reshape(-1)
    head = np.packbits(bits[: 8 * (_LENGTH + 4)]).tobytes()
    packed = _MAGIC.get(head[:_LENGTH])
    if packed is None:
        return {}
    length = int.from_bytes(head[_LENGTH:], "big")
    start = 8 * (_LENGTH + 4)
    return _texts(np.packbits(bits[start : start + min(length, 8 * _MAX_TEXT)]).tobytes(), packed=packed)


def _texts(data: bytes, *, packed: bool) -> dict[str, str]:
    if packed:
        try:
            data = zlib.decompressobj(wbits=31).decompress(data, _MAX_TEXT)
        except zlib.error:
            return {}
    text = data.decode("utf-8", "replace")
    values = object_of(text)
    if values is None:
        return {"parameters": text}
    return {name: value for name, value in values.items() if isinstance(value, str)}
