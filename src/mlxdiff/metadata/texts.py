"""Every text of a picture file by name, whatever its format: found without decoding a pixel.

What the texts mean is the business of record.py.
"""

from __future__ import annotations

from pathlib import Path

from .. import recipes
from ..containers import jpeg_webp_gif, png, xmp
from ..errors import InputError
from ..images import open_picture, stored_texts
from ..inputs import open_input
from .sheets import SHEET, SWEEP

_OWN = ("mlxdiff", "parameters", "Software", SWEEP, SHEET)
_OTHERS = tuple(dict.fromkeys((*recipes.NAMES, xmp.NAME)))


def texts_in(path: str | Path) -> tuple[str, tuple[int, int], dict[str, str]]:
    """The format, the size (width, height), and the texts of a picture file; raises InputError where it is none."""
    with open_input(path, "picture") as stream:
        try:
            size = png.read_size(stream)
            found = jpeg_webp_gif.read(stream) if size is None else None
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}).", "Check the file and the disk.") from None
    if size is not None:
        return "PNG", size, png.read_texts(path, _OWN, _OTHERS)
    if found is not None:
        return found.format, found.size, found.texts
    with open_picture(path) as picture:  # another format, or none
        return str(picture.format), picture.size, stored_texts(picture)


def source_type_in(texts: dict[str, str]) -> str | None:
    """IPTC's Digital Source Type among the texts of a picture, as xmp.py reads it."""
    found = (xmp.source_type(texts[name]) for name in (xmp.NAME, xmp.OTHER_FORMATS) if name in texts)
    return next((value for value in found if value is not None), None)
