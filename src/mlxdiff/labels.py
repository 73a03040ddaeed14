"""Words beside the pictures of a sheet: one for each column above it, one for each row on its left.

The sheet itself is not touched: labels only add margins. Knows nothing of what the words mean.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .errors import MlxdiffWarning

INK = (32, 32, 32)
PAPER = (255, 255, 255)
ELLIPSIS = "…"
# Pillow's own font has the letters of English; these, where the system has one, have those of other languages.
_SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "msyh.ttc",
    "seguisym.ttf",
    "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf",
)
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def font_size(cell: tuple[int, int]) -> int:
    """Pixels for the letters beside cells of (height, width): 14 for 128, 27 for 512, 38 for 1024."""
    return max(10, min(64, round(1.2 * math.sqrt(min(cell)))))


def margins(columns: Sequence[str], rows: Sequence[str], cell: tuple[int, int]) -> tuple[int, int]:
    """Pixels that the labels take above the sheet, and on its left: never more than the width of a cell."""
    size = font_size(cell)
    pad = size // 2
    font = font_for([*columns, *rows], size)
    top = round(1.3 * size) + 2 * pad if columns else 0
    widest = max((font.getlength(_one_line(label)) for label in rows), default=0)
    left = min(math.ceil(widest) + 2 * pad, max(cell[1], 4 * size)) if rows else 0
    return top, left


def labelled(sheet: np.ndarray, columns: Sequence[str], rows: Sequence[str] = (), *, gap: int = 0) -> np.ndarray:
    """The sheet (H, W, 3) uint8, of equal cells `gap` pixels apart, with a label for each column and each row.

    A label that does not fit is cut, and ends in an ellipsis. The sheet's own pixels stay as they are.
    """
    n_rows = max(1, len(rows))
    height = (sheet.shape[0] + gap) // n_rows - gap
    width = (sheet.shape[1] + gap) // len(columns) - gap
    top, left = margins(columns, rows, (height, width))
    size = font_size((height, width))
    pad = size // 2
    font = font_for([*columns, *rows], size)
    paper = Image.new("RGB", (left + sheet.shape[1], top + sheet.shape[0]), PAPER)
    draw = ImageDraw.Draw(paper)
    for i, label in enumerate(columns):
        middle = left + i * (width + gap) + width / 2
        draw.text((middle, top - pad), fitted(label, font, width), INK, font, anchor="md")
    for i, label in enumerate(rows):
        middle = top + i * (height + gap) + height / 2
        draw.text((left - pad, middle), fitted(label, font, left - 2 * pad), INK, font, anchor="rm")
    canvas = np.array(paper)
    canvas[top:, left:] = sheet
    return canvas


def fitted(label: str, font: Font, width: float) -> str:
    """The label on one line, or as much of it as `width` pixels hold with an ellipsis behind it."""
    text = _one_line(label)
    if font.getlength(text) <= width:
        return text
    fits, too_long = 0, len(text)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if font.getlength(text[:middle].rstrip() + ELLIPSIS) <= width:
            fits = middle
        else:
            too_long = middle
    return text[:fits].rstrip() + ELLIPSIS


def font_for(labels: Sequence[str], size: int) -> Font:
    """The first font that has every letter of the labels; the built-in one, which draws boxes, if there is none."""
    letters = {ELLIPSIS}.union(*(_one_line(label) for label in labels))
    for font in _fonts(size):
        if all(_has(font, letter) for letter in letters):
            return font
    strange = sorted(letter for letter in letters if not _has(_fonts(size)[0], letter))
    warnings.warn(
        MlxdiffWarning(f"No font was found for the labels' letters {' '.join(strange[:20])}: they are drawn as boxes."),
        stacklevel=3,
    )
    return _fonts(size)[0]


def _one_line(label: str) -> str:
    """Spaces for line breaks and tabs, and no other characters that do not print."""
    return "".join(letter for letter in " ".join(label.split())[:1000] if letter.isprintable())


@lru_cache(maxsize=8)
def _fonts(size: int) -> list[Font]:
    found: list[Font] = [ImageFont.load_default(size)]
    for name in _SYSTEM_FONTS:
        with suppress(OSError):
            found.append(ImageFont.truetype(name, size))
    return found


@lru_cache(maxsize=4096)
def _has(font: Font, letter: str) -> bool:
    """Whether the font draws the letter otherwise than a character that no font has."""
    return letter == " " or _drawn(font, letter) != _drawn(font, "\U0010ffff")


def _drawn(font: Font, letter: str) -> bytes:
    picture = Image.new("L", (128, 128))
    ImageDraw.Draw(picture).text((32, 32), letter, 255, font)
    return picture.tobytes()
