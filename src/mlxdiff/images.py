"""Pictures as arrays: (H, W, 3), float32 in [0, 1] or uint8, to and from files, and side by side on a sheet.

Files carry texts by name (PNG: tEXt or iTXt; JPEG and WebP: EXIF and XMP); what they mean is the business of
metadata/.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from os import PathLike, fsdecode
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import PIL.TiffImagePlugin  # these two for what they register, see _READABLE
import PIL.WebPImagePlugin  # noqa: F401
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from . import budget
from .containers import exif, xmp
from .errors import InputError, MlxdiffError, NonFiniteError, OutputError, RequestError
from .files import atomic_write
from .fitting import fitted
from .inputs import open_input
from .request.pictures import Pixels, in_file
from .rgb import layers, to_rgb

if TYPE_CHECKING:
    import mlx.core as mx

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
QUALITY = 95
_MAX_EXIF = 65500  # bytes: a JPEG segment says its length in 16 bits
_DECODED, _AS_FLOATS = 12, 12  # bytes a pixel: three copies of RGBA on the way, and the array
_ON_SHEET = 9  # bytes a pixel: the array, Pillow's copy, and what the file's encoder makes of it
_LIKE_UTF8 = re.compile(r"[\xc2-\xf4][\x80-\xbf]")  # what readers that look for UTF-8 would take for it
_NOT_LATIN = re.compile(r"[^\t\n\x20-\x7e\xa0-\xff]")  # what PNG's tEXt has no letters for
# Only readers that need no other program: EPS would start Ghostscript.
_READABLE = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

_ORIENTATION = 0x0112  # EXIF 2.3
# Texts of mlxdiff's own: UTF-8 in PNG whatever they hold, and the MakerNote of an Exif segment. One of them at a time.
OWN = ("mlxdiff", "mlxdiff-sweep", "mlxdiff-sheet")


def to_uint8(images: np.ndarray | mx.array, rounding: str = "nearest") -> np.ndarray:
    """Floats in [0, 1], of any shape, to uint8; clips what is outside.

    rounding  `nearest` as diffusers rounds, or `truncate` as A1111 and ComfyUI do

    Raises NonFiniteError for NaN and infinity.
    """
    if not isinstance(images, np.ndarray):
        import mlx.core as mx

        images = np.array(images.astype(mx.float32))
    images = images.astype(np.float32)
    if not np.isfinite(images).all():
        raise NonFiniteError(
            "The picture has pixels that are not numbers (NaN or infinity).",
            "Render it with --dtype fp32, which overflows less easily than half precision; if that is no help, the"
            " model's weights are damaged: `mlxdiff pull --verify` names the file where it came from the hub.",
        )
    levels = np.clip(images, 0, 1) * 255
    return (levels.round() if rounding == "nearest" else levels).astype(np.uint8)


def load_picture(path: str | Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """A picture file as (H, W, 3) float32 in [0, 1]: upright, and on white where it is transparent.

    `size` is (height, width) in pixels: the picture is scaled with Lanczos' filter to cover it and cropped around the
    centre. Of an animation this is the first frame. Raises InputError.
    """
    with open_picture(path) as opened:
        width, height = opened.size
        check_decoding(path, width, height, kept=width * height if size is None else size[0] * size[1])
        picture = to_rgb(ImageOps.exif_transpose(opened), path)
        return np.asarray(picture if size is None else fitted(picture, size, "crop"), np.float32) / 255


def read_layers(source: str | Pixels) -> tuple[Image.Image, Image.Image | None]:
    """A picture that a request names or holds, upright: RGB on white, and its opacity (L) if a part is transparent.

    Raises InputError.
    """
    if isinstance(source, Pixels):
        return layers(_held(source), "The picture")
    path = in_file(source)
    with open_picture(path) as opened:
        check_decoding(path, *opened.size, kept=opened.size[0] * opened.size[1])
        return layers(ImageOps.exif_transpose(opened), path)


def may_be_transparent(source: str | Pixels) -> bool:
    """Whether the picture's format has a place for transparency here: nothing is decoded."""
    if isinstance(source, Pixels):
        return source.array.shape[2] == 4
    with open_picture(in_file(source)) as opened:
        return opened.has_transparency_data


def read_mask(source: str | Pixels) -> Image.Image:
    """A mask that a request names or holds, as 8-bit gray (L): its opacity if a part of it is transparent."""
    colours, alpha = read_layers(source)
    return colours.convert("L") if alpha is None else alpha


def read_gray(source: str | Pixels) -> np.ndarray:
    """A picture that a request names or holds as (H, W) float32 in [0, 1], 16 bits of gray with all of them."""
    if isinstance(source, str):
        path = in_file(source)
        with open_picture(path) as opened:
            check_decoding(path, *opened.size, kept=opened.size[0] * opened.size[1])
            if opened.mode.startswith("I"):
                upright = ImageOps.exif_transpose(opened)
                to_rgb(upright, path)  # which refuses what is more than 16 bits
                return np.asarray(upright).astype(np.float32) / 65535
    return np.asarray(read_layers(source)[0].convert("L"), np.float32) / 255


def _held(source: Pixels) -> Image.Image:
    array = source.array
    return Image.fromarray(array if array.dtype == np.uint8 else to_uint8(array))


def source_size(source: str | Pixels) -> tuple[int, int]:
    """(height, width) in pixels of a picture that a request names or holds, upright. Raises InputError."""
    if isinstance(source, Pixels):
        return source.array.shape[0], source.array.shape[1]
    with open_picture(in_file(source)) as opened:
        width, height = opened.size
        if opened.format == "PNG" and "exif" not in opened.info:  # Pillow decodes it to look behind the pixels
            check_decoding(source, width, height)
        turned = opened.getexif().get(_ORIENTATION, 1) >= 5  # EXIF 2.3: 5 to 8 lie on their side
        return (width, height) if turned else (height, width)


class Picture(Image.Image):
    """A PIL image whose `info` says how it was made; `save` keeps that in PNG, JPEG and WebP files."""

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:
        """As PIL's `save`; give `pnginfo` or `exif` to write others. Raises OutputError for texts that are too long."""
        texts = {name: _encodable(value) for name, value in _texts_of(self.info)}
        kind = FORMATS.get(_suffix(fp), "") if format is None else format.upper()
        if texts and not {"pnginfo", "exif"} & params.keys():
            if kind == "PNG":
                params["pnginfo"] = _png_texts(texts)
            elif kind in ("JPEG", "WEBP"):
                params = _in_exif_and_xmp(texts) | params
                _check_exif(kind, params["exif"], "The picture")
        Image.Image.save(self, fp, format, **params)


def _texts_of(info: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
    return ((name, value) for name, value in info.items() if isinstance(name, str) and isinstance(value, str))


def _suffix(target: Any) -> str:
    """How the name of a path or of an open file ends, in small letters."""
    name = target if isinstance(target, str | bytes | PathLike) else getattr(target, "name", "")
    return Path(fsdecode(name)).suffix.lower() if isinstance(name, str | bytes | PathLike) else ""


def _check_exif(kind: str, data: bytes, what: str) -> None:
    if kind == "JPEG" and len(data) > _MAX_EXIF:
        raise OutputError(
            f"The prompt is longer than a JPEG file can keep: {what} was not written.",
            "Write a PNG, or leave the metadata out with --no-metadata.",
        )


def with_texts(picture: np.ndarray, texts: Mapping[str, str]) -> Picture:
    """(H, W, 3) uint8 as a PIL image that says `texts` of itself."""
    made = Image.fromarray(picture)
    made.__class__ = Picture  # as PIL's own plugins are made; its constructor takes no pixels
    made.info.update({name: _encodable(value) for name, value in texts.items()})
    return made  # type: ignore[return-value]


def check_decoding(path: str | Path, width: int, height: int, kept: int = 0) -> None:
    """Raises InputError for a picture that would not fit into memory decoded; `kept` pixels of it become floats."""
    needed = _DECODED * width * height + _AS_FLOATS * kept
    if not budget.fits(needed):
        raise InputError(f"{path}, {width}x{height} pixels, {budget.lack(needed)}.", "Make it smaller first.")


def contact_sheet(
    pictures: Sequence[np.ndarray], n_rows: int, *, gap: int = 0, background: tuple[int, int, int] = (255, 255, 255)
) -> np.ndarray:
    """Pictures (H, W, 3) uint8 in reading order on one sheet; see `sheet_of`."""
    sizes = [(picture.shape[0], picture.shape[1]) for picture in pictures]
    return sheet_of(sizes, pictures, n_rows, gap=gap, background=background)


def sheet_of(
    sizes: Sequence[tuple[int, int]],
    pictures: Iterable[np.ndarray],
    n_rows: int,
    *,
    gap: int = 0,
    background: tuple[int, int, int] = (255, 255, 255),
) -> np.ndarray:
    """Pictures (H, W, 3) uint8 of these sizes (H, W) on one sheet; the first rows get the one more that is left.

    All cells are as large as the largest picture, `gap` pixels apart; a smaller one is centred. Each picture is asked
    for when its place comes, so that one at a time is in memory. Raises RequestError, also where the sheet would not
    fit, before the first is asked for.
    """
    if n_rows < 1 or n_rows > len(sizes):
        raise RequestError(
            f"{len(sizes)} pictures do not fill {n_rows} rows.", "Ask for 1 row or more, at most one a picture."
        )
    if gap < 0:
        raise RequestError(f"The gap is {gap} pixels.", "It is 0 or more.")
    each, rest = divmod(len(sizes), n_rows)
    cells = [(row, column) for row in range(n_rows) for column in range(each + (row < rest))]
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    n_columns = each + (rest > 0)
    shape = (n_rows * (height + gap) - gap, n_columns * (width + gap) - gap, 3)
    if not budget.fits(_ON_SHEET * shape[0] * shape[1]):
        raise RequestError(
            f"The sheet, {shape[1]}x{shape[0]} pixels, {budget.lack(_ON_SHEET * shape[0] * shape[1])}.",
            "Put fewer or smaller pictures on it.",
        )
    sheet = np.empty(shape, np.uint8)
    sheet[:] = background
    for picture, (row, column) in zip(pictures, cells, strict=True):
        h, w = picture.shape[:2]
        top = row * (height + gap) + (height - h) // 2
        left = column * (width + gap) + (width - w) // 2
        sheet[top : top + h, left : left + w] = picture
    return sheet


def picture_format(path: str | Path) -> str:
    """The format that the file's name asks for; raises RequestError for one that mlxdiff does not write."""
    suffix = Path(path).suffix
    if suffix.lower() not in FORMATS:
        what = f"a picture of the format {suffix!r}" if suffix else "a picture without a format in its name"
        raise RequestError(f"{path} would be {what}.", f"End its name in one of {', '.join(FORMATS)}.")
    return FORMATS[suffix.lower()]


def write_picture(
    path: str | Path, picture: np.ndarray, text: Mapping[str, str] | None = None, *, force: bool = False
) -> None:
    """Writes (H, W, 3) uint8 as `encode_picture` makes it, whole or not at all; raises as that and OutputError."""
    data = encode_picture(path, picture, text)
    atomic_write(path, lambda stream: stream.write(data), force=force)


def encode_picture(path: str | Path, picture: np.ndarray, text: Mapping[str, str] | None = None) -> bytes:
    """The bytes of (H, W, 3) uint8 as PNG, JPEG or WebP, by the file's name, with `text` inside.

    PNG keeps every text under its name. JPEG and WebP keep `parameters`, `mlxdiff`, `Software` and XMP. Raises
    RequestError for an unknown format, OutputError for texts that it cannot hold, MemoryError.
    """
    kind = picture_format(path)
    image = Image.fromarray(picture)
    texts = {} if text is None else {name: _encodable(value) for name, value in text.items()}
    options: dict[str, Any] = {"quality": QUALITY}
    if kind == "PNG":
        options = {"pnginfo": _png_texts(texts)}
    elif texts:
        options |= _in_exif_and_xmp(texts)
        _check_exif(kind, options["exif"], str(path))
    if kind == "JPEG":
        options["subsampling"] = 0
    stream = BytesIO()
    try:
        image.save(stream, kind, **options)
    except OSError as error:  # not of a file, which comes later: zlib calls its lack of memory a bad configuration
        if kind == "PNG" or "memory" in str(error):
            raise MemoryError(str(error)) from error
        raise
    return stream.getvalue()


def webp_texts(text: Mapping[str, str]) -> dict[str, bytes]:
    """What Pillow is told for `encode_picture`'s texts in WebP, for a file of several frames."""
    found = _in_exif_and_xmp({name: _encodable(value) for name, value in text.items()})
    return found | {"exif": found["exif"].removeprefix(b"Exif\0\0")}  # which Pillow removes for one frame alone


def stored_texts(picture: Image.Image) -> dict[str, str]:
    """The texts in an opened picture by name: those of `write_picture`, and what other tools put in their place."""
    if isinstance(picture, PngImagePlugin.PngImageFile):
        return {name: str(value) for name, value in picture.text.items()}
    data, packet = picture.info.get("exif"), picture.info.get("xmp")
    found = exif.read(data if isinstance(data, bytes) else picture.getexif().tobytes())
    return found | ({xmp.OTHER_FORMATS: packet.decode("utf-8", "replace")} if isinstance(packet, bytes) else {})


@contextmanager
def open_picture(path: str | Path) -> Iterator[Image.Image]:
    """A picture file, open while in use; whatever is wrong with it, then or on the way, is an InputError."""
    with warnings.catch_warnings():
        # Pillow warns of large and of slightly damaged pictures; the former are wanted, the latter decode.
        warnings.simplefilter("ignore")
        with opened(path) as picture:
            yield picture


@contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """As `open_picture`, for a thread: what is done about warnings holds for all of them, and is the caller's."""
    with open_input(path, "picture") as stream, _opened(stream, path) as picture:
        yield picture


def decoded_picture(data: bytes, name: str, *, most: int) -> Image.Image:
    """A picture file's bytes as an image whose pixels are in memory; of an animation the first frame.

    Any thread may ask, so Pillow's warnings are not held back: Python's means to do so is one of the whole process.
    Raises InputError, which calls the picture `name`, also for more than `most` pixels: before they are decoded.
    """
    with _opened(BytesIO(data), name) as picture:
        width, height = picture.size
        if width * height > most:
            raise InputError(f"{name} has {width}x{height} pixels.", f"At most {most:,} are read: make it smaller.")
        check_decoding(name, width, height)
        picture.load()
        return picture.copy()


@contextmanager
def _opened(stream: BinaryIO, name: str | Path) -> Iterator[Image.Image]:
    try:
        with Image.open(stream, formats=_READABLE) as picture:
            yield picture
    except MlxdiffError:
        raise
    except UnidentifiedImageError:
        formats = "PNG, JPEG, WebP, GIF, BMP, TIFF or PPM"
        raise InputError(f"{name} is not a picture, or a damaged one.", f"Give a {formats} file.") from None
    except Image.DecompressionBombError:
        raise InputError(f"{name} has too many pixels to be opened safely.", "Make it smaller first.") from None
    except MemoryError:
        raise InputError(f"{name} does not fit into memory.", "Make it smaller first.") from None
    except Exception as error:  # the readers raise a dozen types for damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name} is damaged ({reason}).", "Get the file again, or convert it.") from error


def _encodable(text: str) -> str:
    """The text without NUL, and with U+FFFD for halves of surrogate pairs: no file format can hold these."""
    return text.replace("\0", "").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _png_texts(texts: Mapping[str, str]) -> PngImagePlugin.PngInfo:
    """As tEXt what Latin-1 can say, since few programs read iTXt (exifr, which Civitai uses, reads none)."""
    chunks = PngImagePlugin.PngInfo()
    for name, value in texts.items():
        if name in OWN or name == xmp.NAME or _NOT_LATIN.search(value) or _LIKE_UTF8.search(value):
            chunks.add_itxt(name, value)
        else:
            chunks.add_text(name, value)
    return chunks


def _in_exif_and_xmp(texts: Mapping[str, str]) -> dict[str, bytes]:
    """What Pillow is told for texts in JPEG and WebP files."""
    found = {"exif": exif.write(texts, next((name for name in OWN if name in texts), None))}
    return found | ({"xmp": texts[xmp.NAME].encode()} if xmp.NAME in texts else {})
