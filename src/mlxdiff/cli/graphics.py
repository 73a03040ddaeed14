"""Pictures in a terminal: half blocks in colour anywhere, or the protocol of the terminal for real pictures.

Each encoder turns a Pillow picture into what is written; which one a terminal understands is asked of its environment,
and of the terminal itself for sixel. Through tmux and screen only half blocks arrive unharmed.
"""

from __future__ import annotations

import base64
import os
import re
import select
import sys
import time
from collections.abc import Mapping
from functools import cache
from io import BytesIO

import numpy as np
from PIL import Image

BLOCKS, KITTY, ITERM2, SIXEL = "blocks", "kitty", "iterm2", "sixel"
PROTOCOLS = (BLOCKS, KITTY, ITERM2, SIXEL)
OVERRIDE = "MLXDIFF_PREVIEW"
UPPER_HALF = "▀"
SIXEL_COLOURS = 64
REPLY_SECONDS = 0.15


def protocol_of(environment: Mapping[str, str]) -> str | None:
    """What the environment says that the terminal understands; None where it does not say."""
    term = environment.get("TERM", "")
    program = environment.get("TERM_PROGRAM", "")
    wanted = environment.get(OVERRIDE)
    if wanted in PROTOCOLS:
        return wanted
    if "TMUX" in environment or program == "tmux" or term.startswith(("screen", "tmux")):
        return BLOCKS
    if "KITTY_WINDOW_ID" in environment or term in ("xterm-kitty", "xterm-ghostty") or program == "ghostty":
        return KITTY
    if program in ("iTerm.app", "WezTerm", "mintty") or environment.get("LC_TERMINAL") == "iTerm2":
        return ITERM2
    if term.startswith(("foot", "mlterm", "contour")) or "sixel" in term:
        return SIXEL
    if program in ("Apple_Terminal", "vscode") or "VTE_VERSION" in environment or term == "linux":
        return BLOCKS
    return None


def answers_sixel(descriptor: int, seconds: float = REPLY_SECONDS) -> bool:
    """Asks the terminal for its attributes (DA1) and says whether sixel, number 4, is one; no answer is no.

    What was typed meanwhile is lost, so it waits at most `seconds`.
    """
    try:
        import termios
        import tty
    except ImportError:  # Windows
        return False
    if os.getpgrp() != os.tcgetpgrp(descriptor):  # in the background, asking would stop the program
        return False
    before = termios.tcgetattr(descriptor)
    reply = b""
    try:
        tty.setcbreak(descriptor)
        os.write(descriptor, b"\x1b[c")
        deadline = time.monotonic() + seconds
        while not re.search(rb"\x1b\[\?[\d;]*c", reply) and time.monotonic() < deadline:
            if select.select([descriptor], [], [], max(0, deadline - time.monotonic()))[0]:
                reply += os.read(descriptor, 256)
    finally:
        termios.tcsetattr(descriptor, termios.TCSAFLUSH, before)
    found = re.search(rb"\x1b\[\?([\d;]*)c", reply)
    return found is not None and b"4" in found[1].split(b";")[1:]


def detect(environment: Mapping[str, str]) -> str:
    """The protocol for the terminal of stderr: what its environment says, else what it answers, else half blocks."""
    found = protocol_of(environment)
    if found is not None:
        return found
    return _asked()


@cache
def _asked() -> str:
    """What the terminal answers, asked once: what is typed meanwhile is lost."""
    try:
        with open("/dev/tty", "rb+", buffering=0) as terminal:
            return SIXEL if answers_sixel(terminal.fileno()) else BLOCKS
    except OSError:
        return BLOCKS


def blocks(picture: Image.Image, *, colours: int = 2**24) -> list[str]:
    """One line for two rows of pixels: the upper one is the ink of a half block, the lower one its paper.

    `colours` is 2**24, or 256 for terminals that have the fixed palette only.
    """
    pixels = np.asarray(picture.convert("RGB"))
    if len(pixels) % 2:
        pixels = np.concatenate([pixels, pixels[-1:]])
    if colours == 256:
        codes = [[f"5;{number}" for number in row] for row in _palette(pixels).tolist()]
    else:
        codes = [[f"2;{red};{green};{blue}" for red, green, blue in row] for row in pixels.tolist()]
    lines = []
    for upper, lower in zip(codes[::2], codes[1::2], strict=True):
        line, before = [], ("", "")
        for ink, paper in zip(upper, lower, strict=True):
            # A colour is said when it changes, which halves what is written.
            said = [code for code, old, new in (("38;", before[0], ink), ("48;", before[1], paper)) if old != new]
            values = {"38;": ink, "48;": paper}
            if said:
                line.append("\x1b[" + ";".join(code + values[code] for code in said) + "m")
            line.append(UPPER_HALF)
            before = (ink, paper)
        lines.append("".join(line) + "\x1b[0m")
    return lines


def kitty(picture: Image.Image, columns: int, rows: int, number: int) -> str:
    """Kitty's graphics protocol: PNG in chunks of 4096; `number` replaces the picture of that number."""
    data = base64.standard_b64encode(_png(picture)).decode()
    chunks = [data[at : at + 4096] for at in range(0, len(data), 4096)]
    # a=T shows at once, C=1 leaves the cursor where it is, q=2 asks for no reply.
    head = f"a=T,f=100,i={number},p=1,c={columns},r={rows},C=1,q=2,"
    return "".join(
        f"\x1b_G{head if i == 0 else ''}m={int(i < len(chunks) - 1)};{chunk}\x1b\\" for i, chunk in enumerate(chunks)
    )


def iterm2(picture: Image.Image, columns: int, rows: int) -> str:
    """iTerm2's inline pictures, which WezTerm and mintty show too."""
    data = _png(picture)
    size = f"size={len(data)};width={columns};height={rows};preserveAspectRatio=1;doNotMoveCursor=1"
    return f"\x1b]1337;File=inline=1;{size}:{base64.standard_b64encode(data).decode()}\x07"


def sixel(picture: Image.Image) -> str:
    """DEC's sixel: bands of six rows of pixels, one pass for each colour of the band, in run lengths."""
    image = picture.convert("RGB").quantize(SIXEL_COLOURS, dither=Image.Dither.NONE)
    indices = np.asarray(image)
    height, width = indices.shape
    palette = np.array(image.getpalette(), dtype=np.int64).reshape(-1, 3)
    used = np.unique(indices).tolist()
    out = [f'\x1bP0;1q"1;1;{width};{height}']
    out += [f"#{n};2;" + ";".join(str(level) for level in (palette[n] * 100 + 127) // 255) for n in used]
    for top in range(0, height, 6):
        band = indices[top : top + 6]
        numbers = np.unique(band)
        weights = (1 << np.arange(len(band)))[:, None]
        codes = ((band == numbers[:, None, None]) * weights).sum(axis=1) + 63
        out.append("$".join(f"#{n}{_run_lengths(row)}" for n, row in zip(numbers.tolist(), codes, strict=True)) + "-")
    return "".join(out) + "\x1b\\"


def cell_pixels() -> tuple[int, int]:
    """(width, height) of a character in pixels, as the terminal says, or what is usual."""
    try:
        import fcntl
        import struct
        import termios

        packed = fcntl.ioctl(sys.stderr.fileno(), termios.TIOCGWINSZ, bytes(8))
        rows, columns, width, height = struct.unpack("HHHH", packed)
    except (ImportError, OSError, ValueError):
        return 8, 16
    return (width // columns, height // rows) if min(rows, columns, width, height) > 0 else (8, 16)


def _run_lengths(codes: np.ndarray) -> str:
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    lengths = np.diff(starts, append=len(codes))
    runs = zip(codes[starts].tolist(), lengths.tolist(), strict=True)
    return "".join(chr(code) * length if length < 4 else f"!{length}{chr(code)}" for code, length in runs)


def _palette(pixels: np.ndarray) -> np.ndarray:
    """The nearest of xterm's 256 colours: its cube of 6x6x6 (16 to 231), or its 24 grays (232 to 255)."""
    levels = np.array([0, 95, 135, 175, 215, 255])
    wide = pixels.astype(np.int64)
    nearest = np.abs(wide[..., None] - levels).argmin(axis=-1)
    gray = np.clip((wide.mean(axis=-1) - 8 + 5) // 10, 0, 23).astype(np.int64)
    to_cube = ((levels[nearest] - wide) ** 2).sum(axis=-1)
    to_gray = (((gray * 10 + 8)[..., None] - wide) ** 2).sum(axis=-1)
    cube = 16 + nearest @ np.array([36, 6, 1])
    return np.where(to_gray < to_cube, 232 + gray, cube)


def _png(picture: Image.Image) -> bytes:
    stream = BytesIO()
    picture.save(stream, "PNG", compress_level=1)
    return stream.getvalue()
