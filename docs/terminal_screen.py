"""What a program wrote to a terminal, as a picture of the screen: tmux keeps the screen, Pillow draws its cells."""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from rich.ansi import AnsiDecoder
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.terminal_theme import SVG_EXPORT_THEME

CELL, MARGIN, TITLE = (8, 16), 8, 28  # pixels; the title bar's height
FONTS = ("DejaVuSansMono.ttf", "Menlo.ttc", "LiberationMono-Regular.ttf")
BUTTONS = ((255, 95, 87), (254, 188, 46), (40, 200, 64))
BACKGROUND, INK = SVG_EXPORT_THEME.background_color, SVG_EXPORT_THEME.foreground_color
UPPER_HALF, BRAILLE = "▀", 0x2800
DOTS = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3))  # of a braille character, bit by bit
END = "-- the end --"


def screen(written: bytes, rows: int, columns: int) -> list[str]:
    """The lines on the screen once all is written, with their colors as escape sequences, without empty ones below."""
    with tempfile.TemporaryDirectory(prefix="mlxdiff-screen-") as name:
        folder = Path(name)
        (folder / "written").write_bytes(written)
        # Below the screen is one row for the mark that all has arrived.
        shown = f"cat '{folder}/written'; tput cup {rows} 0; printf '%s' '{END}'; sleep 60"
        tmux = ["tmux", "-u", "-f", "/dev/null", "-S", str(folder / "socket")]
        start = ["new-session", "-d", "-x", str(columns), "-y", str(rows + 1), shown]
        subprocess.run([*tmux, *start, ";", "set", "status", "off"], check=True)
        try:
            for _ in range(300):
                time.sleep(0.1)
                taken = subprocess.run([*tmux, "capture-pane", "-e", "-p"], capture_output=True, check=True).stdout
                *lines, last = taken.decode().removesuffix("\n").split("\n")
                if END in last:
                    break
            else:
                raise RuntimeError("tmux does not show what was written")
        finally:
            subprocess.run([*tmux, "kill-server"], check=True)
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def drawn(lines: list[str], columns: int, title: str) -> Image.Image:
    """A window with the title and these lines."""
    width, height = CELL
    picture = Image.new("RGB", (columns * width + 2 * MARGIN, len(lines) * height + TITLE + MARGIN), BACKGROUND)
    draw, font = ImageDraw.Draw(picture), _font()
    for i, color in enumerate(BUTTONS):
        draw.circle((MARGIN + 8 + 18 * i, TITLE / 2), 5, fill=color)
    draw.text((picture.width / 2, TITLE / 2), title, fill=INK, font=font, anchor="mm")
    console = Console(force_terminal=True, color_system="truecolor", width=columns)
    for row, line in enumerate(AnsiDecoder().decode("\n".join(lines))):
        column = 0
        for segment in line.render(console):
            ink, paper = _colors(segment)
            for character in segment.text:
                at = (MARGIN + column * width, TITLE + row * height)
                box = (*at, at[0] + width - 1, at[1] + height - 1)
                if paper != BACKGROUND:
                    draw.rectangle(box, fill=paper)
                if character == UPPER_HALF:  # drawn by a font, its edges would show
                    draw.rectangle((*box[:3], at[1] + height // 2 - 1), fill=ink)
                elif BRAILLE <= ord(character) < BRAILLE + 256:  # a spinner; few fonts have it
                    for x, y in (dot for bit, dot in enumerate(DOTS) if ord(character) >> bit & 1):
                        draw.circle((at[0] + 2 + 3 * x, at[1] + 3 + 3 * y), 1, fill=ink)
                else:
                    draw.text((at[0], at[1] + 12), character, fill=ink, font=font, anchor="ls")
                column += 1
    return picture


def _colors(segment: Segment) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The segment's ink and paper."""
    style = segment.style or Style()
    ink = INK if style.color is None else style.color.get_truecolor(SVG_EXPORT_THEME)
    paper = BACKGROUND if style.bgcolor is None else style.bgcolor.get_truecolor(SVG_EXPORT_THEME, foreground=False)
    if style.dim:
        ink = tuple((3 * a + 2 * b) // 5 for a, b in zip(ink, paper, strict=True))
    return (paper, ink) if style.reverse else (ink, paper)  # type: ignore[return-value]


def _font() -> ImageFont.FreeTypeFont:
    """A font whose characters are as wide as a cell."""
    for name in FONTS:
        try:
            font = ImageFont.truetype(name, 100)
        except OSError:
            continue
        return ImageFont.truetype(name, 100 * CELL[0] / font.getlength("M"))
    raise RuntimeError(f"none of these fonts is installed: {', '.join(FONTS)}")
