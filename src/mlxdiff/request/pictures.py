"""Pictures as settings: a file's path, or pixels in memory. Knows no MLX, and opens no file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from ..containers import xmp
from ..errors import InputError, RequestError
from .declarations import Text, shown

if TYPE_CHECKING:
    import numpy as np

IN_MEMORY = "memory:"
ALPHA = "alpha"
"""The mask that is the transparent part of the picture itself."""
MAX_PIXELS = 2**28
BETWEEN = "|"  # pictures in one text: no Windows path and hardly any other has one
MAX_PICTURES = 100  # of one part of a request


@dataclass(frozen=True, eq=False)
class Pixels:
    """A picture that was given as an array or a PIL image: (H, W, 3) uint8, or float32 in [0, 1].

    A PIL image with transparent parts is (H, W, 4) uint8.

    Two are equal when their pixels are; JSON says only `memory:` and their SHA-256. `source_type` is what a PIL image
    says of its source (xmp.py).
    """

    array: np.ndarray
    sha256: str
    source_type: str | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pixels) and other.sha256 == self.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __str__(self) -> str:
        return IN_MEMORY + self.sha256


def in_file(source: str) -> str:
    """The path as it is; raises InputError for what stands in metadata for a picture that was in memory."""
    if source.startswith(IN_MEMORY):
        raise InputError(
            "A picture that this was made from was in memory, not in a file.",
            "Give it again: its image, mask, depth map or control.",
        )
    return source


@dataclass(frozen=True)
class PictureSource(Text):
    """A picture: its path (str or Path); in Python also a PIL image, or an array (H, W, 3), uint8 or in [0, 1]."""

    def check(self, name: str, value: Any) -> Any:
        if isinstance(value, Pixels):
            return value
        if isinstance(value, PathLike):
            value = fspath(value)
        if isinstance(value, str):
            if not value.strip():
                raise RequestError(f"{name} is empty.", "Give the path of a picture, or leave it out.")
            return value
        array = _array_of(name, value)
        if array is None:
            raise RequestError(
                f"{name} is {type(value).__name__}, not text.", "Give a path, a PIL image, or an array (H, W, 3)."
            )
        kind = f"{array.dtype} {array.shape}".encode()
        return Pixels(array, hashlib.sha256(kind + array.tobytes()).hexdigest(), _source_type(value))

    def to_json(self, value: str | Pixels) -> str:
        return str(value)

    def describe(self) -> dict[str, Any]:
        return {"type": "picture"}


@dataclass(frozen=True)
class MaskSource(PictureSource):
    """A mask: as a picture, and in Python also an array (H, W) of bool, uint8 or numbers in [0, 1]."""

    def check(self, name: str, value: Any) -> Any:
        if hasattr(value, "getbands") or not hasattr(value, "shape"):
            return super().check(name, value)
        import numpy as np

        array = np.asarray(value)
        array = array.astype(np.uint8) * 255 if array.dtype == bool else array
        flat = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
        if flat:
            array = np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
        return super().check(name, array)

    def describe(self) -> dict[str, Any]:
        return {"type": "picture"}


@dataclass(frozen=True)
class PictureSources:
    """Several pictures: a list of them, or paths with | between them in one text. The value is always a tuple.

    one  what each of them may be
    """

    one: PictureSource = PictureSource()
    type = str
    many = False

    def check(self, name: str, value: Any) -> tuple[str | Pixels, ...]:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(BETWEEN)]
        if not isinstance(value, list | tuple):
            value = [value]
        if not 0 < len(value) <= MAX_PICTURES:
            raise RequestError(f"{name} is {len(value)} pictures.", f"Give 1 to {MAX_PICTURES}.")
        return tuple(self.one.check(name, picture) for picture in value)

    def parse(self, name: str, text: str) -> tuple[str | Pixels, ...]:
        return self.check(name, text)

    def to_json(self, value: tuple[str | Pixels, ...]) -> Any:
        texts = [str(one) for one in value]
        return texts[0] if len(texts) == 1 and BETWEEN not in texts[0] else texts

    def show(self, value: tuple[str | Pixels, ...]) -> str:
        return BETWEEN.join(map(str, value))

    def describe(self) -> dict[str, Any]:
        return {"type": "pictures"}


def _source_type(value: Any) -> str | None:
    """What a PIL image, opened or rendered, says of its source."""
    info = getattr(value, "info", None)
    if not isinstance(info, dict):
        return None
    for name in (xmp.NAME, xmp.OTHER_FORMATS):
        packet = info.get(name)
        text = packet.decode("utf-8", "replace") if isinstance(packet, bytes) else packet
        if isinstance(text, str) and (found := xmp.source_type(text)) is not None:
            return found
    return None


def _array_of(name: str, value: Any) -> np.ndarray | None:
    """(H, W, 3) of a PIL image or of anything that is an array; None for what is neither."""
    if hasattr(value, "getbands") and hasattr(value, "convert"):
        from ..rgb import picture_array

        return picture_array(value)
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        return None
    import numpy as np

    try:
        array = np.array(value)
    except Exception as error:  # an array of another library may refuse in its own way
        raise RequestError(f"{name} is an array that NumPy cannot read ({error}).", "Give it as uint8.") from None
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape or array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise RequestError(f"{name} is an array of shape {shown(array.shape)}.", "It is (height, width, 3).")
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f" or not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
        raise RequestError(
            f"{name} is an array of {array.dtype}, not all in [0, 1].", "Give floats in [0, 1] or uint8."
        )
    return array.astype(np.float32)
