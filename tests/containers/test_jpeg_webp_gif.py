"""JPEG and WebP files, read without their pixels: sizes and texts as Pillow finds them."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mlxdiff.containers import exif, jpeg_webp_gif
from mlxdiff.metadata import read_picture, request_from_file
from mlxdiff.request import Request

TEXTS = {"parameters": "a\nSteps: 4, Seed: 1", "mlxdiff": '{"prompt":"a"}', "Software": "x"}
OPTIONS = [
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("JPEG", {"comment": b"hello"}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("WEBP", {"exact": True, "lossless": True}),
]


def encoded(kind: str, size: tuple[int, int], mode: str = "RGB", **options) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize(("kind", "options"), OPTIONS, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (17, 300), (640, 8)])
def test_sizes(kind, options, size):
    for mode in ("RGB", "RGBA") if kind == "WEBP" else ("RGB", "L", "CMYK"):
        found = jpeg_webp_gif.read(io.BytesIO(encoded(kind, size, mode, **options)))
        assert found is not None
        assert (found.format, found.size) == (kind, size)


@pytest.mark.parametrize(("kind", "options"), OPTIONS, ids=str)
def test_texts(kind, options):
    data = encoded(kind, (9, 7), exif=exif.write(TEXTS, "mlxdiff"), xmp=b"<x/>", **options)
    found = jpeg_webp_gif.read(io.BytesIO(data))
    assert found is not None
    comment = {"Comment": "hello"} if "comment" in options else {}
    assert found.texts == {**TEXTS, "xmp": "<x/>", **comment}


def test_animations():
    frames = [Image.new("RGB", (5, 4), (i, 0, 0)) for i in range(3)]
    stream = io.BytesIO()
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:], exif=exif.write(TEXTS, "mlxdiff"))
    found = jpeg_webp_gif.read(stream)
    assert found is not None
    assert (found.size, found.texts) == ((5, 4), TEXTS)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe1\0\1", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"\x89PNG"]
)
def test_what_is_none(data):
    assert jpeg_webp_gif.read(io.BytesIO(data)) is None


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 10**6), byte=st.integers(0, 255), cut=st.integers(0, 400))
def test_damage(kind, at, byte, cut):
    data = bytearray(encoded(kind, (9, 7), exif=exif.write(TEXTS, "mlxdiff")))
    data[at % len(data)] = byte
    jpeg_webp_gif.read(io.BytesIO(bytes(data)))
    jpeg_webp_gif.read(io.BytesIO(bytes(data[:cut])))


def jpeg_of(width: int, height: int) -> bytes:
    """A file that claims to be so large, with its texts, and has no pixels."""
    data = bytearray(encoded("JPEG", (8, 8), exif=exif.write(TEXTS, "mlxdiff")))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def png_of(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    pixels = zlib.compress(bytes(10_000_000))
    text = b"mlxdiff\0\0\0\0\0" + TEXTS["mlxdiff"].encode()
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"iTXt", text), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in chunks)


@pytest.mark.parametrize("size", [(13_300, 13_300), (65_000, 65_000)])
@pytest.mark.parametrize("made", [jpeg_of, png_of])
def test_pictures_of_any_size_say_how_they_were_made(tmp_path, size, made):
    path = tmp_path / ("a.jpg" if made is jpeg_of else "a.png")
    path.write_bytes(made(*size))
    found = read_picture(path)
    assert (found.size, found.request) == (size, Request(prompt="a", prompt_syntax="plain"))
    assert request_from_file(path) == found.request


def test_exif_in_a_png(tmp_path):
    text = "a café\nSteps: 4, Seed: 1, RNG: CPU"
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png", exif=exif.write({"parameters": text}))
    assert read_picture(tmp_path / "a.png").parameters == text
    assert request_from_file(tmp_path / "a.png") == Request(
        prompt="a café", steps=4, seed=1, prompt_syntax="a1111", compat="a1111", rng="torch"
    )
