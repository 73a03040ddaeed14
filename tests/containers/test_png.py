"""Texts of PNG files, against Pillow's reading of them, and from files made to do harm."""

from __future__ import annotations

import io
import resource
import struct
import time
import warnings
import zlib
from contextlib import suppress
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from mlxdiff.containers.png import MAX_TEXT, SIGNATURE, read_texts
from mlxdiff.errors import InputError, MlxdiffError
from mlxdiff.images import write_picture
from mlxdiff.metadata import picture_text, request_from_file
from mlxdiff.request import Request

NAMES = ("mlxdiff", "parameters", "Software")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


HEADER = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
PIXELS = chunk(b"IDAT", zlib.compress(b"\0\0\0\0"))
END = chunk(b"IEND", b"")


def png(path, *before: bytes, after: bytes = b""):
    path.write_bytes(SIGNATURE + HEADER + b"".join(before) + PIXELS + after + END)
    return path


def itxt(name: bytes, text: bytes, *, packed: bool = False) -> bytes:
    return chunk(b"iTXt", name + b"\0" + bytes([packed, 0]) + b"\0\0" + (zlib.compress(text) if packed else text))


def test_every_form_of_text_as_pillow_reads_it(tmp_path):
    for form, name in product(("plain", "zip", "itxt", "itxt zip"), NAMES):
        chunks = PngImagePlugin.PngInfo()
        text = "café, naïve" if "itxt" not in form else "茶 🍎"
        if "itxt" in form:
            chunks.add_itxt(name, text, "en", "Schlüssel", zip="zip" in form)
        else:
            chunks.add_text(name, text, zip="zip" in form)
        chunks.add_text("Comment", "not asked for")
        Image.new("RGB", (3, 2)).save(tmp_path / "a.png", pnginfo=chunks)
        with Image.open(tmp_path / "a.png") as picture:
            assert read_texts(tmp_path / "a.png", NAMES) == {name: picture.text[name]} == {name: text}


def test_what_mlxdiff_wrote(tmp_path):
    texts = picture_text(Request(prompt="é" * 100_000, seed=3))
    write_picture(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8), texts)
    assert read_texts(tmp_path / "a.png", tuple(texts)) == texts


def test_a_text_after_the_pixels(tmp_path):
    path = png(tmp_path / "a.png", after=chunk(b"tEXt", b"parameters\0late"))
    assert read_texts(path, NAMES) == {"parameters": "late"}


def test_a_picture_that_was_cut_off_still_says_how_it_was_made(tmp_path):
    path = png(tmp_path / "a.png", itxt(b"mlxdiff", b'{"prompt":"a"}'))
    whole = path.read_bytes()
    path.write_bytes(whole[: -len(END) - 8])
    assert request_from_file(path) == Request(prompt="a", prompt_syntax="plain")


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (itxt(b"mlxdiff", b" " * (MAX_TEXT + 1), packed=True), "unpacks to more"),
        (chunk(b"zTXt", b"mlxdiff\0\0" + zlib.compress(b" " * 300_000_000)), "unpacks to more"),
        (chunk(b"tEXt", b"mlxdiff\0" + b" " * MAX_TEXT), "a text of"),
        (chunk(b"zTXt", b"mlxdiff\0\0not packed"), "cannot be unpacked"),
        (itxt(b"mlxdiff", b"\xff\xfe"), "not UTF-8"),
        (itxt(b"mlxdiff", b"{}")[:-1] + b"\0", "checksum"),
        (struct.pack(">I", 2**31 - 1) + b"tEXtmlxdiff\0", "a text of"),
        (struct.pack(">I", 2**20) + b"tEXtmlxdiff\0", "ends inside"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_texts_that_are_damaged_or_far_too_large(tmp_path, bad, said):
    path = png(tmp_path / "a.png", bad)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=f"is damaged .*{said}"):
        read_texts(path, NAMES)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB; bytes on macOS
    with pytest.raises(InputError):
        request_from_file(path)


def test_large_chunks_of_others_are_passed_over(tmp_path):
    path = png(
        tmp_path / "a.png",
        chunk(b"tEXt", b"workflow\0" + b"x" * 3 * MAX_TEXT),
        itxt(b"prompt", b"\xff" * 1000, packed=True),
        chunk(b"tEXt", b""),
        chunk(b"tEXt", b"no end"),
        itxt(b"mlxdiff", b'{"prompt":"a"}'),
    )
    assert read_texts(path, NAMES) == {"mlxdiff": '{"prompt":"a"}'}


def test_many_bombs_cost_no_more_than_one(tmp_path):
    bomb = chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b" " * MAX_TEXT))
    path = png(tmp_path / "a.png", *[bomb] * 2000)
    start = time.process_time()
    assert len(read_texts(path, NAMES)["parameters"]) == MAX_TEXT
    assert time.process_time() - start < 1


def test_a_picture_of_many_pixels_is_not_decoded(tmp_path):
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("mlxdiff", '{"prompt":"a"}')
    Image.new("1", (12_000, 12_000)).save(tmp_path / "a.png", pnginfo=chunks)
    start = time.process_time()
    assert request_from_file(tmp_path / "a.png") == Request(prompt="a", prompt_syntax="plain")
    assert time.process_time() - start < 0.1


def test_a_name_that_cannot_be_opened(tmp_path):
    with pytest.raises(InputError, match="There is no picture"):
        read_texts(tmp_path / "missing.png", NAMES)


kinds = st.sampled_from([b"tEXt", b"zTXt", b"iTXt", b"IDAT", b"acTL", b"eXIf", b"junk"])
bodies = st.binary(max_size=30) | st.builds(
    lambda name, middle, text: name + b"\0" + middle + text,
    st.sampled_from([b"mlxdiff", b"parameters", b"Software"]),
    st.sampled_from([b"", b"\0", b"\0\0\0\0", b"\1\0\0\0"]),
    st.binary(max_size=20) | st.sampled_from([b'{"prompt":"a"}', zlib.compress(b'{"prompt":"a"}'), b"a\nSteps: 4"]),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.builds(chunk, kinds, bodies), max_size=5),
    st.integers(-20, 0),
    st.integers(0, 10**6),
    st.integers(0, 255),
)
def test_any_chunks_are_a_request_or_an_error(tmp_path_factory, chunks, cut, at, byte):
    path = png(tmp_path_factory.getbasetemp() / "any.png", *chunks)
    data = bytearray(path.read_bytes())
    data[8 + at % (len(data) - 8)] = byte  # one byte is wrong, behind the signature
    path.write_bytes(bytes(data[: len(data) + cut]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert isinstance(request_from_file(path), Request)
        except MlxdiffError as error:
            text = str(error)
            assert "\x1b" not in text


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=50), st.sampled_from(["tEXt", "zTXt", "iTXt", "packed"]))
def test_texts_of_any_content_as_pillow_reads_them(tmp_path_factory, text, form):
    path = tmp_path_factory.getbasetemp() / "one.png"
    if form in ("tEXt", "zTXt"):
        raw = text.encode("latin-1", "replace")
        data = chunk(form.encode(), b"parameters\0" + (raw if form == "tEXt" else b"\0" + zlib.compress(raw)))
    else:
        data = itxt(b"parameters", text.encode(), packed=form == "packed")
    png(path, data)
    with Image.open(io.BytesIO(path.read_bytes())) as picture:
        expected = str(picture.text["parameters"])
    if form in ("tEXt", "zTXt"):  # Pillow follows the standard, and some programs do not
        with suppress(UnicodeDecodeError):
            expected = expected.encode("latin-1").decode("utf-8")
    assert read_texts(path, NAMES) == {"parameters": expected}


def test_utf_8_where_the_standard_wants_latin_1(tmp_path):
    for kind, pack in ((b"tEXt", bytes), (b"zTXt", lambda raw: b"\0" + zlib.compress(raw))):
        path = png(tmp_path / "a.png", chunk(kind, b"parameters\0" + pack("ein Käfer, 猫".encode())))
        assert read_texts(path, NAMES) == {"parameters": "ein Käfer, 猫"}
        path = png(tmp_path / "a.png", chunk(kind, b"parameters\0" + pack("ein Käfer".encode("latin-1"))))
        assert read_texts(path, NAMES) == {"parameters": "ein Käfer"}


@pytest.mark.parametrize("text", ["Ã¤", "a Ã¼ b", "café", "Â£5", "naïve ½"])
def test_what_looks_like_utf_8_is_written_so_that_nobody_mistakes_it(tmp_path, text):
    write_picture(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8), {"parameters": text})
    assert read_texts(tmp_path / "a.png", NAMES) == {"parameters": text}
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.text["parameters"] == text
