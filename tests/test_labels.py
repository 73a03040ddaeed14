"""Labels: readable, cut where they must be, and never over a picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mlxdiff import labels
from mlxdiff.errors import MlxdiffWarning
from mlxdiff.images import contact_sheet


def sheet_of(n_rows: int, n_columns: int, cell: tuple[int, int], gap: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*cell, 3)).astype(np.uint8) for _ in range(n_rows * n_columns)]
    return contact_sheet(pictures, n_rows, gap=gap)


def luminance(colour: tuple[int, int, int]) -> float:
    """Relative luminance of WCAG 2.2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def columns_with_ink(picture: np.ndarray) -> np.ndarray:
    return np.flatnonzero((picture < 128).any(axis=(0, 2)))


@pytest.mark.parametrize("cell", [(8, 8), (64, 128), (128, 64), (256, 256)])
@pytest.mark.parametrize("rows", [(), ("euler", "heun")])
def test_the_cells_keep_every_pixel(cell, rows):
    sheet = sheet_of(max(1, len(rows)), 3, cell, 4)
    columns = ("steps 1", "a label that is far too long for its column", "")
    found = labels.labelled(sheet, columns, rows, gap=4)
    top, left = labels.margins(columns, rows, cell)
    assert found.shape == (sheet.shape[0] + top, sheet.shape[1] + left, 3)
    np.testing.assert_array_equal(found[top:, left:], sheet)
    assert (left > 0) == (len(rows) > 0)
    assert left <= max(cell[1], 64)


def test_each_label_stands_over_its_own_column_and_beside_its_own_row():
    white = np.full((2 * 128 + 4, 3 * 128 + 8, 3), 255, np.uint8)
    top, left = labels.margins(("one", "two", "three"), ("up", "down"), (128, 128))
    only_two = labels.labelled(white, ("", "two", ""), ("up", "down"), gap=4)[:top]
    inked = columns_with_ink(only_two)
    _, left = labels.margins(("", "two", ""), ("up", "down"), (128, 128))
    assert left + 132 <= inked.min() < inked.max() < left + 260
    assert abs((inked.min() + inked.max()) / 2 - (left + 132 + 64)) < 2
    beside = labels.labelled(white, ("",) * 3, ("", "down"), gap=4)
    top, left = labels.margins(("",) * 3, ("", "down"), (128, 128))
    inked_rows = np.flatnonzero((beside[:, :left] < 128).any(axis=(1, 2)))
    assert top + 132 < inked_rows.min() < inked_rows.max() < top + 260


@pytest.mark.parametrize("size", [10, 14, 27])
@pytest.mark.parametrize("label", ["W" * 50, "a rather long prompt of several words", "guidance-scale 7.5"])
def test_what_is_cut_ends_in_an_ellipsis_and_fits(label, size):
    font = labels.font_for([label], size)
    whole = font.getlength(label)
    for width in (whole / 3, whole / 2, whole - 1):
        cut = labels.fitted(label, font, width)
        assert cut.endswith("…")
        assert label.startswith(cut[:-1])
        assert font.getlength(cut) <= width
        longer = label[: len(cut)] + "…"
        assert font.getlength(longer) > width, "one letter more would have fitted"
    assert labels.fitted(label, font, whole) == label


def test_ink_on_paper_has_the_contrast_for_small_letters():
    light, dark = luminance(labels.PAPER), luminance(labels.INK)
    assert (light + 0.05) / (dark + 0.05) >= 7, "WCAG 2.2, 1.4.6"


def test_letters_are_drawn_in_that_ink():
    found = labels.labelled(np.full((256, 256, 3), 255, np.uint8), ("Mmmm",))
    assert tuple(found.reshape(-1, 3).min(axis=0)) == labels.INK


def test_the_font_is_scalable():
    heights = []
    for size in (10, 20, 40):
        font = labels.font_for(["Mg"], size)
        _, top, _, bottom = ImageDraw.Draw(Image.new("L", (200, 200))).textbbox((0, 0), "Mg", font)
        heights.append(bottom - top)
    assert heights[1] == pytest.approx(2 * heights[0], rel=0.15)
    assert heights[2] == pytest.approx(4 * heights[0], rel=0.15)


def test_control_characters_and_lines_become_one_plain_line():
    font = labels.font_for(["a"], 20)
    assert labels.fitted("a\nb\tc\x1b[31m\x00d", font, 10_000) == "a b c[31md"


def test_letters_that_no_font_has_are_said(monkeypatch):
    monkeypatch.setattr(labels, "_SYSTEM_FONTS", ())
    labels._fonts.cache_clear()
    try:
        with pytest.warns(MlxdiffWarning, match="猫"):
            labels.labelled(np.zeros((64, 64, 3), np.uint8), ("猫",))
    finally:
        labels._fonts.cache_clear()
