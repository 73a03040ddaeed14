"""Whether the pixels of a picture file decode, and the file is whole: its format, size and frames."""

from __future__ import annotations

import math
import threading
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import ImageSequence

from .. import budget
from ..containers import jpeg_webp_gif
from ..containers.png import SIGNATURE
from ..errors import InputError
from ..images import open_picture
from .fault import UnsoundError, damaged
from .marked import check_parts
from .png_file import MAX_ALL, check_png
from .reading import length_of

NAMES = {".png": "PNG", ".apng": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".gif": "GIF"}
MAX_HELD = 2**28  # bytes of a file that is read as a whole
MAX_DECODED = 2**27  # pixels that Pillow is asked for
_LARGE = 2**24  # pixels: one such picture at a time
_DECODED = 12  # bytes a pixel
_alone = threading.Lock()


@dataclass(frozen=True)
class Pixels:
    """`size` is (width, height) in pixels; `frames` is more than 1 for an animation; `twice` as of PngFile."""

    format: str
    size: tuple[int, int]
    frames: int
    twice: tuple[str, ...] = ()


def check_pixels(path: Path, stream: BinaryIO) -> Pixels:
    """What the open file at that path is; raises UnsoundError."""
    stream.seek(0)
    if stream.read(len(SIGNATURE)) == SIGNATURE:
        found = check_png(stream)
        return Pixels("PNG", found.size, found.frames, found.twice)
    if length_of(stream) == 0:
        raise damaged("It is empty.")
    if length_of(stream) > MAX_HELD:
        raise UnsoundError("too-large", f"It has {length_of(stream)} bytes, and is no PNG; {MAX_HELD} are looked at.")
    size = _claimed(stream)
    stream.seek(0)
    parts = check_parts(stream.read(MAX_HELD + 1))
    if parts is None or size is None:
        raise damaged("It is no PNG, JPEG, WebP or GIF file, or its first bytes are damaged.")
    if math.prod(size) * parts.frames * parts.scans > MAX_ALL:
        raise UnsoundError("too-large", f"It has {parts.frames * parts.scans} times {size[0]}x{size[1]} pixels.")
    _decode(path, size)
    return Pixels(parts.format, size, parts.frames)


def _claimed(stream: BinaryIO) -> tuple[int, int] | None:
    """The size that the file says it has, which may be decoded."""
    found = jpeg_webp_gif.read(stream)
    if found is None:
        return None
    if math.prod(found.size) > MAX_DECODED or not budget.fits(_DECODED * math.prod(found.size)):
        raise UnsoundError("too-large", f"It says that it is {found.size[0]}x{found.size[1]} pixels.")
    return found.size


def _decode(path: Path, size: tuple[int, int]) -> None:
    try:
        with open_picture(path) as picture, _alone if math.prod(size) > _LARGE else nullcontext():
            if picture.size != size:
                raise damaged(f"It says that it is {size[0]}x{size[1]} pixels, and is not.")
            for frame in ImageSequence.Iterator(picture):
                frame.load()
    except InputError as error:
        if isinstance(error.__cause__, UnsoundError):
            raise error.__cause__ from None
        said = "" if error.__cause__ is None else " ".join(str(error.__cause__).split())
        raise damaged(f"Its pixels cannot be decoded ({said})." if said else "Its pixels cannot be decoded.") from None
