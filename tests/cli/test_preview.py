"""`--preview`: what appears in a terminal, where it appears, and what it costs."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from patience import WAIT
from PIL import Image
from rich.console import Console

from mlxdiff import StableDiffusion
from mlxdiff.batch import projection
from mlxdiff.batch.render import Denoised, Rendered
from mlxdiff.cli import preview as module
from mlxdiff.cli.preview import SHARE, Preview, cells_for, mosaic, open_preview
from mlxdiff.errors import ModelNotFoundError
from mlxdiff.images import to_uint8
from mlxdiff.request import Request


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def console_of(width: int = 80, height: int = 30, **options) -> Console:
    settings = {"force_terminal": True, "color_system": "truecolor", "_environ": {"TERM": "xterm-256color"}, **options}
    return Console(file=io.StringIO(), width=width, height=height, **settings)


def denoised(step: int, steps: int, n_images: int = 1, cells: int = 16, first: int = 0) -> Denoised:
    latents = mx.zeros((n_images, cells, cells, 4))
    return Denoised(step, steps, n_images, latents, latents, tuple(range(first, first + n_images)))


@pytest.fixture
def gray(monkeypatch) -> None:
    """A projection that costs nothing and shows gray."""
    weights = np.concatenate([np.zeros((4, 3)), np.full((1, 3), 0.5)]).astype(np.float32)
    monkeypatch.setattr(projection, "fit", lambda _: projection.Projection(weights))


def drawn(preview: Preview, console: Console) -> str:
    with console.capture() as capture:
        console.print(preview, end="")
    return capture.get()


@pytest.mark.usefixtures("gray")
def test_events_pass_through_in_their_order():
    events = [denoised(1, 2), "anything else", denoised(2, 2)]
    preview = Preview(console_of(), "blocks")
    assert list(preview.follow(events)) == events


@pytest.mark.usefixtures("gray")
def test_half_blocks_fill_as_many_lines_as_cells_need():
    console, clock = console_of(), Clock()
    preview = Preview(console, "blocks", clock=clock)
    for _ in preview.follow([denoised(1, 1)]):
        clock.now += 1
    lines = drawn(preview, console).splitlines()
    assert [line.count("▀") for line in lines] == [16] * 8
    assert "38;2;128;128;128" in lines[0]


@pytest.mark.usefixtures("gray")
def test_the_finished_picture_replaces_what_was_foreseen():
    console, clock = console_of(), Clock()
    preview = Preview(console, "blocks", clock=clock)
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 255
    item = Rendered(5, Request("a", seed=0), red, np.zeros((16, 16, 4), np.float32))
    for _ in preview.follow([denoised(1, 1, n_images=2, first=4), item]):
        clock.now += 1
    first = drawn(preview, console).splitlines()[0]
    assert first.index("128;128;128") < first.index("255;0;0")
    assert first.count("▀") == 32


@pytest.mark.usefixtures("gray")
@pytest.mark.parametrize(("protocol", "mark"), [("kitty", "\x1b_G"), ("iterm2", "\x1b]1337"), ("sixel", "\x1bP0;1q")])
def test_pictures_come_after_their_lines_and_the_cursor_returns(protocol, mark):
    console, clock = console_of(), Clock()
    preview = Preview(console, protocol, clock=clock)
    for _ in preview.follow([denoised(1, 1)]):
        clock.now += 1
    text = drawn(preview, console)
    *blank, last = text.split("\n")[:-1]
    assert blank == [""] * 7
    assert last.startswith(f"\x1b7\x1b[7A\r{mark}")
    assert last.endswith("\x1b8")
    again = drawn(preview, console)
    assert (mark in again) == (protocol != "kitty"), "kitty keeps its picture, the others are erased with their lines"
    assert again.count("\n") == 8


def test_frames_are_left_out_where_they_cost_too_much(monkeypatch):
    """Steps of a second, frames of 0.3 s, a setup of 0.2 s: 100 steps may spend 5 s."""
    clock = Clock()
    shown: list[float] = []

    class Slow(projection.Projection):
        def __call__(self, latents: np.ndarray) -> np.ndarray:
            clock.now += 0.3
            shown.append(clock.now)
            return super().__call__(latents)

    def fit(_) -> projection.Projection:
        clock.now += 0.2
        return Slow(np.zeros((5, 3), np.float32))

    monkeypatch.setattr(projection, "fit", fit)
    preview = Preview(console_of(), "blocks", clock=clock)

    def events():
        for step in range(1, 101):
            clock.now += 1
            yield denoised(step, 100)

    for _ in preview.follow(events()):
        pass
    spent = 0.2 + 0.3 * len(shown)
    assert spent <= SHARE * clock.now
    assert spent >= 0.7 * SHARE * clock.now, "what may be spent is used"
    gaps = np.diff(shown)
    assert gaps.max() < 3 * gaps.min(), "frames are spread over the run"


def test_a_run_too_short_for_the_setup_has_no_preview(monkeypatch):
    def fit(_):
        raise AssertionError("the setup was run")

    monkeypatch.setattr(projection, "fit", fit)
    clock = Clock()
    preview = Preview(console_of(), "blocks", clock=clock)

    def events():
        for step in (1, 2):
            clock.now += 1
            yield denoised(step, 2, cells=16)

    assert len(list(preview.follow(events()))) == 2


@pytest.mark.parametrize(
    ("size", "room", "cells"),
    [
        ((32, 32), (64, 32), (32, 16)),
        ((128, 128), (64, 32), (64, 32)),
        ((128, 64), (64, 32), (64, 16)),
        ((64, 128), (64, 32), (32, 32)),
        ((64, 64), (79, 10), (20, 10)),
        ((1, 1), (64, 32), (1, 1)),
    ],
)
def test_sizes_keep_the_shape_and_fit(size, room, cells):
    assert cells_for(size, room, 1) == cells


@pytest.mark.parametrize(("n", "size"), [(1, (4, 6)), (2, (8, 6)), (3, (8, 12)), (4, (8, 12)), (5, (12, 12))])
def test_a_batch_is_about_square_and_in_reading_order(n, size):
    tiles = [Image.new("RGB", (4, 6), (10 * i + 10, 0, 0)) for i in range(n)]
    whole = mosaic(tiles)
    assert whole.size == size
    columns = size[0] // 4
    for i in range(n):
        assert whole.getpixel((i % columns * 4, i // columns * 6)) == (10 * i + 10, 0, 0)


@pytest.mark.parametrize(
    "options",
    [
        {"force_terminal": False},
        {"_environ": {"TERM": "dumb"}},
        {"no_color": True},
        {"quiet": True},
        {"color_system": None},
    ],
)
def test_terminals_without_pictures_get_none(options):
    assert open_preview(console_of(**options), {"TERM": "xterm", "MLXDIFF_PREVIEW": "blocks"}) is None


def test_a_terminal_with_colours_gets_one():
    assert open_preview(console_of(), {"TERM": "xterm", "MLXDIFF_PREVIEW": "blocks"}) is not None


@pytest.fixture(scope="module")
def taesd(tmp_path_factory) -> Path:
    """A small random AutoencoderTiny whose cells are as large as the built-in model's."""
    levels = len(StableDiffusion("emoji").checkpoint.vae.block_out_channels)
    torch.manual_seed(0)
    shape = {"encoder_block_out_channels": (8,) * levels, "decoder_block_out_channels": (8,) * levels}
    blocks = {"num_encoder_blocks": (1,) * levels, "num_decoder_blocks": (1,) * levels}
    folder = tmp_path_factory.mktemp("taesd")
    AutoencoderTiny(**shape, **blocks).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("how", ["the model's own", "named"])
def test_a_tiny_vae_decodes_previews(how, taesd, monkeypatch):
    monkeypatch.setattr(projection, "fit", lambda _: pytest.fail("there is a tiny VAE"))
    sd = StableDiffusion("emoji", vae=taesd if how == "the model's own" else None)
    latents = mx.random.normal((2, 4, 6, 4))
    expected = to_uint8(StableDiffusion("emoji", vae=taesd).decode(latents))
    clock = Clock()
    preview = Preview(console_of(), "kitty", clock=clock, vae=None if how == "the model's own" else str(taesd))
    for _ in preview.follow([Denoised(1, 1, 2, latents, latents, (0, 1), sd)]):
        clock.now += 1
    assert [tile.size for tile in preview._tiles] == [expected.shape[2:0:-1]] * 2
    for tile, picture in zip(preview._tiles, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(tile), picture)
    assert not sd.networks.holds("vae") or how == "the model's own"


def test_large_decoded_pictures_are_made_smaller(taesd):
    sd = StableDiffusion("emoji", vae=taesd)
    latents = mx.zeros((1, 600 // sd.checkpoint.scale_factor, 900 // sd.checkpoint.scale_factor, 4))
    preview = Preview(console_of(), "kitty", clock=Clock())
    list(preview.follow([Denoised(1, 1, 1, latents, latents, (0,), sd)]))
    assert max(preview._tiles[0].size) == module.MAX_PIXELS


def test_the_vae_of_the_environment_and_one_that_is_not_there(taesd):
    environment = {"TERM": "xterm", "MLXDIFF_PREVIEW": "blocks", "MLXDIFF_PREVIEW_VAE": str(taesd)}
    found = open_preview(console_of(), environment)
    assert found is not None
    assert found._vae == str(taesd)
    with pytest.raises(ModelNotFoundError):
        open_preview(console_of(), environment, vae="no/such")
    assert open_preview(console_of(), {**environment, "MLXDIFF_PREVIEW_VAE": ""}) is not None


def run_in_terminal(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Runs the program on a terminal of 80 x 40 of its own; its exit code and all that the terminal received."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 800, 800))
    clean = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "TMUX", "COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "mlxdiff", *arguments],
        cwd=folder,
        env={**clean, "TERM": "xterm-256color", "COLORTERM": "truecolor", **environment},
        stdin=other,
        stdout=other,
        stderr=other,
        start_new_session=True,
    )
    os.close(other)
    received, deadline = b"", time.monotonic() + WAIT
    while time.monotonic() < deadline:
        if select.select([main], [], [], 0.2)[0]:
            try:
                received += os.read(main, 65536)
            except OSError:  # the last one closed it
                break
        elif process.poll() is not None:
            break
    os.close(main)
    return process.wait(WAIT), received.decode()


def test_a_render_in_a_terminal_shows_the_picture_above_its_bars(tmp_path):
    code, received = run_in_terminal(
        tmp_path, "generate", "a red apple", "--steps", "16", "-o", "a.png", "--preview", MLXDIFF_PREVIEW="blocks"
    )
    assert code == 0, received
    assert (tmp_path / "a.png").is_file()
    last = received[received.rindex("38;2;") - 20_000 :]
    lines = [line for line in re.split(r"\r?\n", last) if line.count("▀") == 32]
    assert len(lines) >= 16
    assert "Denoising" in received[received.rindex("▀") :]
    assert received.count("Denoising") > 2


def test_a_render_in_a_terminal_with_a_tiny_vae(tmp_path, taesd):
    code, received = run_in_terminal(
        tmp_path, "generate", "a red apple", "--steps", "16", "-o", "a.png", "--preview-vae", str(taesd),
        MLXDIFF_PREVIEW="blocks",
    )  # fmt: skip
    assert code == 0, received
    assert any(line.count("▀") == 64 for line in re.split(r"\r?\n", received)), "as wide as there is room"


def test_without_a_terminal_nothing_is_drawn_and_that_is_said(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mlxdiff", "generate", "a cat", "--steps", "1", "-o", "a.png", "--preview"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=True,
    )
    assert "▀" not in done.stderr
    assert "no preview" in done.stderr
    assert done.stdout == "a.png\n"


def test_the_module_is_not_needed_for_help():
    assert module.__name__ == "mlxdiff.cli.preview"
    code = (
        "import sys, mlxdiff.cli.app; assert 'mlxdiff.cli.preview' not in sys.modules; assert 'PIL' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=WAIT)
