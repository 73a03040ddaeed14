"""JPEG, WebP and GIF files: cut, with something behind, mistaken for each other, and claiming too much."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from mlxdiff.animate import write_animation
from mlxdiff.checking import pixels
from mlxdiff.checking.fault import UnsoundError
from mlxdiff.checking.pixels import Pixels, check_pixels
from mlxdiff.checking.reading import steady
from mlxdiff.images import encode_picture
from mlxdiff.metadata import picture_text
from mlxdiff.request import Request

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3)).astype(np.uint8)
TEXTS = picture_text(Request(prompt="a", seed=1, model="emoji"))


def looked_at(path, data: bytes) -> Pixels | str:
    """What the file is, or the kind of fault."""
    path.write_bytes(data)
    try:
        with steady(path) as stream:
            return check_pixels(path, stream)
    except UnsoundError as error:
        return error.kind if error.problem.endswith(".") else error.problem


def saved(form: str, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, form, **options)
    return stream.getvalue()


def animated(folder, name: str) -> bytes:
    write_animation(folder / name, iter([PIXELS, PIXELS[::-1]]), 2, fps=10, text=TEXTS)
    return (folder / name).read_bytes()


@pytest.fixture(params=["jpg", "progressive", "webp", "lossless", "moving", "gif"])
def sound(request, tmp_path) -> tuple[bytes, Pixels]:
    """A sound file of every kind, and what it is."""
    match request.param:
        case "jpg":
            return encode_picture("a.jpg", PIXELS, TEXTS), Pixels("JPEG", (40, 24), 1)
        case "progressive":
            return saved("JPEG", progressive=True, restart_marker_rows=1), Pixels("JPEG", (40, 24), 1)
        case "webp":
            return encode_picture("a.webp", PIXELS, TEXTS), Pixels("WEBP", (40, 24), 1)
        case "lossless":
            return saved("WEBP", lossless=True), Pixels("WEBP", (40, 24), 1)
        case "moving":
            return animated(tmp_path, "b.webp"), Pixels("WEBP", (40, 24), 2)
    return animated(tmp_path, "b.gif"), Pixels("GIF", (40, 24), 2)


def test_what_is_whole(tmp_path, sound):
    data, what = sound
    assert looked_at(tmp_path / "a", data) == what


def test_every_cut_is_found(tmp_path, sound):
    data, _ = sound
    lengths = [*range(0, len(data), 1 + len(data) // 150), len(data) - 1]
    assert {looked_at(tmp_path / "a", data[:length]) for length in lengths} == {"damaged"}


def test_what_is_behind_the_end(tmp_path, sound):
    data, _ = sound
    for behind in (b"\0\0", b"PK\x03\x04" + bytes(50), data):
        assert looked_at(tmp_path / "a", data + behind) == "trailing"


def test_any_bytes_end_in_a_kind(tmp_path, sound):
    """JPEG, WebP and GIF have no checksums, so that a changed byte may go unseen; it is never anything else."""
    data, what = sound
    chance = np.random.default_rng(1)
    for _ in range(100):
        changed = bytearray(data)
        changed[chance.integers(len(data))] = chance.integers(256)
        found = looked_at(tmp_path / "a", bytes(changed))
        assert found in ("damaged", "trailing", "too-large") or isinstance(found, Pixels), what


@pytest.mark.parametrize("data", [b"", b"GIF", b"hello, this is no picture at all", bytes(1000), b"RIFF\0\0\0\0WEBP"])
def test_what_is_no_picture(tmp_path, data):
    assert looked_at(tmp_path / "a.png", data) == "damaged"


def test_sizes_that_are_not_decoded(tmp_path):
    """A header of a few bytes may ask for gigabytes."""
    gif = bytearray(animated(tmp_path, "b.gif"))
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    jpeg = bytearray(saved("JPEG"))
    place = jpeg.index(b"\xff\xc0") + 5
    jpeg[place : place + 4] = struct.pack(">HH", 65500, 65500)
    assert looked_at(tmp_path / "a", bytes(gif)) == "too-large"
    assert looked_at(tmp_path / "a", bytes(jpeg)) == "too-large"


def test_many_frames_of_a_large_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "MAX_ALL", 24 * 40 * 2 - 1)
    assert looked_at(tmp_path / "a", animated(tmp_path, "b.gif")) == "too-large"
    assert looked_at(tmp_path / "a", encode_picture("a.jpg", PIXELS)) == Pixels("JPEG", (40, 24), 1)
    assert looked_at(tmp_path / "a", saved("JPEG", progressive=True)) == "too-large"  # many scans of it all
