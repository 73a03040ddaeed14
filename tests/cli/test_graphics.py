"""What is written to terminals, read back: half blocks by a small terminal, PNG by Pillow, sixel by its definition."""

from __future__ import annotations

import base64
import io
import os
import pty
import re
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import WAIT
from PIL import Image

from mlxdiff.cli import graphics


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (3, 3, 3)).astype(np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def read_blocks(lines: list[str]) -> np.ndarray:
    """The pixels that a terminal would show: SGR 38 and 48 with 24 bits or the palette, and one character."""
    rows: list[list] = []
    for line in lines:
        ink = paper = None
        upper, lower = [], []
        for codes, letter in re.findall(r"\x1b\[([\d;]*)m|(▀)", line):
            if letter:
                upper.append(ink)
                lower.append(paper)
                continue
            values = [int(code) for code in codes.split(";")]
            while values:
                kind, *values = values
                if kind == 0:
                    ink = paper = None
                    continue
                mode, *values = values
                size = 3 if mode == 2 else 1
                colour, values = tuple(values[:size]), values[size:]
                colour = colour if size == 3 else xterm(colour[0])
                ink, paper = (colour, paper) if kind == 38 else (ink, colour)
        assert (ink, paper) == (None, None), "the line ends in plain colours"
        rows += [upper, lower]
    return np.array(rows)


def xterm(number: int) -> tuple[int, int, int]:
    """xterm's palette, as its 256colres.h defines it."""
    if number >= 232:
        return (8 + 10 * (number - 232),) * 3
    red, green, blue = (number - 16) // 36, (number - 16) // 6 % 6, (number - 16) % 6
    return tuple(0 if level == 0 else 55 + 40 * level for level in (red, green, blue))  # type: ignore[return-value]


def read_sixel(text: str) -> np.ndarray:
    """VT330/340 Programmer Reference Manual, chapter 14."""
    found = re.fullmatch(r'\x1bP0;1q"1;1;(\d+);(\d+)(.*)\x1b\\', text, re.DOTALL)
    assert found is not None
    width, height, body = int(found[1]), int(found[2]), found[3]
    pixels = np.full((-(-height // 6) * 6, width, 3), -1)
    colours, colour, x, y = {}, None, 0, 0
    for define, select, repeat, sixel, mark in re.findall(
        r"#(\d+;2;\d+;\d+;\d+)|#(\d+)|!(\d+)(?=[?-~])|([?-~])|([$-])", body.replace("\n", "")
    ):
        if define:
            number, _, *levels = (int(value) for value in define.split(";"))
            colours[number] = [level * 255 / 100 for level in levels]
        elif select:
            colour = colours[int(select)]
        elif repeat:
            count = int(repeat)
            continue
        elif sixel:
            bits = ord(sixel) - 63
            for row in range(6):
                if bits >> row & 1:
                    pixels[y + row, x : x + count] = colour
            x += count
        elif mark == "$":
            x = 0
        else:
            x, y = 0, y + 6
        count = 1
    return pixels[:height]


@pytest.mark.parametrize("size", [(8, 6), (5, 7), (1, 1)])
def test_half_blocks_are_the_pixels(size):
    shown = read_blocks(graphics.blocks(picture(*size)))
    wanted = np.asarray(picture(*size))
    np.testing.assert_array_equal(shown[: size[1]], wanted)
    assert shown.shape[0] == size[1] + size[1] % 2


def test_the_palette_is_as_near_as_any_colour_of_it():
    wanted = np.asarray(picture(16, 16)).astype(int)
    shown = read_blocks(graphics.blocks(picture(16, 16), colours=256))
    palette = np.array([xterm(number) for number in range(16, 256)])
    best = np.abs(((wanted[..., None, :] - palette) ** 2).sum(-1)).min(-1)
    error = ((shown - wanted) ** 2).sum(-1)
    assert (error <= best + 3 * 8**2).all()
    assert (error == best).mean() > 0.7


def test_equal_neighbours_are_coloured_once():
    (line,) = graphics.blocks(Image.new("RGB", (40, 2), (1, 2, 3)))
    assert line == "\x1b[38;2;1;2;3;48;2;1;2;3m" + "▀" * 40 + "\x1b[0m"


def test_kitty_gets_a_png_in_chunks():
    rng = np.random.default_rng(0)
    noisy = Image.fromarray(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8))
    text = graphics.kitty(noisy, 20, 10, number=7)
    commands = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert "".join(f"\x1b_G{keys};{data}\x1b\\" for keys, data in commands) == text
    assert commands[0][0] == "a=T,f=100,i=7,p=1,c=20,r=10,C=1,q=2,m=1"
    assert [keys for keys, _ in commands[1:]] == ["m=1"] * (len(commands) - 2) + ["m=0"]
    assert len(commands) > 2
    assert all(len(data) <= 4096 and len(data) % 4 == 0 for _, data in commands)
    data = base64.standard_b64decode("".join(data for _, data in commands))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(noisy))


def test_iterm2_gets_a_png():
    found = re.fullmatch(r"\x1b\]1337;File=([^:]*):([^\x07]*)\x07", graphics.iterm2(picture(9, 9), 20, 10))
    assert found is not None
    keys = dict(pair.split("=") for pair in found[1].split(";"))
    data = base64.standard_b64decode(found[2])
    assert keys == {
        "inline": "1",
        "size": str(len(data)),
        "width": "20",
        "height": "10",
        "preserveAspectRatio": "1",
        "doNotMoveCursor": "1",
    }
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(picture(9, 9)))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5))
def test_sixels_are_the_pixels(width, height, seed):
    wanted = picture(width, height, seed)
    shown = read_sixel(graphics.sixel(wanted))
    quantized = np.asarray(wanted.quantize(graphics.SIXEL_COLOURS, dither=Image.Dither.NONE).convert("RGB"))
    assert shown.min() >= 0, "a pixel was not painted"
    assert np.abs(shown - quantized).max() <= 255 / 200 + 1


def test_runs_of_sixels_are_counted():
    assert "!40" in graphics.sixel(Image.new("RGB", (40, 6), "red"))


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm2"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm2"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"}, "blocks"),
        ({"TERM": "xterm-256color", "VTE_VERSION": "7600"}, "blocks"),
        ({"TERM": "tmux-256color", "TMUX": "/tmp/x", "KITTY_WINDOW_ID": "1"}, "blocks"),
        ({"TERM": "screen", "TERM_PROGRAM": "iTerm.app"}, "blocks"),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "xterm-kitty", "MLXDIFF_PREVIEW": "blocks"}, "blocks"),
        ({"TERM": "xterm-kitty", "MLXDIFF_PREVIEW": "nonsense"}, "kitty"),
    ],
)
def test_what_the_environment_says(environment, protocol):
    assert graphics.protocol_of(environment) == protocol


@pytest.fixture
def answering():
    """answering(reply) -> whether `answers_sixel` says yes on a terminal of its own, which replies so to DA1."""

    def ask(reply: bytes) -> tuple[bool, bytes]:
        child, main = pty.fork()
        if child == 0:  # in a session of its own, whose terminal the pty is
            found = graphics.answers_sixel(0, seconds=WAIT if reply else 0.05)
            os._exit(10 + found)
        asked = b""

        def play() -> None:
            nonlocal asked
            while b"\x1b[c" not in asked:
                asked += os.read(main, 100)
            os.write(main, reply)

        player = threading.Thread(target=play)
        player.start()
        _, status = os.waitpid(child, 0)
        player.join(WAIT)
        os.close(main)
        return os.waitstatus_to_exitcode(status) == 11, asked

    return ask


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize(
    ("reply", "sixel"),
    [
        (b"\x1b[?62;4;22c", True),
        (b"typed\x1b[?64;1;2;4c", True),
        (b"\x1b[?4c", False),  # the first number is the kind of terminal
        (b"\x1b[?62;22;44c", False),
        (b"", False),
    ],
)
def test_a_terminal_is_asked_for_sixel(answering, reply, sixel):
    found, asked = answering(reply)
    assert asked == b"\x1b[c"
    assert found == sixel
