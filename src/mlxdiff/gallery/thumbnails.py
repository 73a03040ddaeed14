"""Small pictures for a gallery, as WebP."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps

from .. import images
from ..rgb import to_rgb

SIZE = 192  # pixels of the longer side: 5 kB of a photograph
SMALLEST, LARGEST = 32, 1024
QUALITY, METHOD = 70, 2  # of WebP; method 4 takes twice the time for 4 % less
LARGE = 2**24  # pixels: of larger pictures one at a time is in memory
_alone = threading.Lock()


@dataclass(frozen=True)
class Thumbnail:
    """`data` is a WebP file; (width, height) are the original's, upright."""

    data: bytes
    width: int
    height: int


def thumbnail(path: Path, size: int = SIZE) -> Thumbnail:
    """The picture on white, upright, within `size` x `size` pixels and never enlarged. Raises InputError.

    Warnings are as the calling thread finds them: `workers.in_order` ignores them for all threads.
    """
    with images.opened(path) as picture:
        images.check_decoding(path, *picture.size)
        with _alone if picture.width * picture.height > LARGE else nullcontext():
            width, height = picture.size
            if picture.mode == "RGB":
                picture.draft("RGB", (size, size))  # JPEG alone: decodes an eighth of it where that is enough
                small = _fitted(picture, size)
                upright = ImageOps.exif_transpose(small)
                turned, small = upright.size != small.size, upright
            else:
                whole = ImageOps.exif_transpose(picture)
                turned = whole.size != picture.size
                small = _fitted(to_rgb(whole, path), size)
    stream = BytesIO()
    small.save(stream, "WEBP", quality=QUALITY, method=METHOD)
    return Thumbnail(stream.getvalue(), *((height, width) if turned else (width, height)))


def _fitted(picture: Image.Image, size: int) -> Image.Image:
    """Within the square, in place: a shape of 1000 to 1 keeps a pixel of its short side."""
    picture.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return picture
