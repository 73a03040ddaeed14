"""Texts in EXIF: written for the readers that people use, read in every form that programs write."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mlxdiff.containers import exif

TEXT = "a café, 猫\nNegative prompt: b\nSteps: 4, Seed: 1"


def fields(data: bytes) -> dict[int, tuple[int, bytes]]:
    """{tag: (type, value)} of the main directory and of the Exif directory: TIFF 6.0, section 2, written anew."""
    assert data[:6] == b"Exif\0\0"
    tiff = data[6:]
    order = {b"MM": ">", b"II": "<"}[tiff[:2]]
    found = {}
    starts = [struct.unpack(f"{order}HI", tiff[2:8])[1]]
    while starts:
        start = starts.pop()
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        tags = []
        for i in range(count):
            tag, kind, n = struct.unpack_from(f"{order}HHI", tiff, start + 2 + 12 * i)
            size = {2: 1, 4: 4, 7: 1}[kind] * n
            at = start + 2 + 12 * i + 8
            at = at if size <= 4 else struct.unpack_from(f"{order}I", tiff, at)[0]
            found[tag] = kind, tiff[at : at + size]
            tags.append(tag)
            if tag == 0x8769:
                starts.append(struct.unpack(f"{order}I", found[tag][1])[0])
        assert tags == sorted(tags)
        assert struct.unpack_from(f"{order}I", tiff, start + 2 + 12 * count) == (0,)
    return found


def test_the_comment_has_the_type_that_the_standard_and_piexif_want():
    found = fields(exif.write({"parameters": TEXT, "mlxdiff": "{}", "Software": "mlxdiff 1"}, "mlxdiff"))
    assert found[0x9286] == (7, b"UNICODE\0" + TEXT.encode("utf-16-be"))
    assert found[0x927C] == (7, b"mlxdiff\0{}")
    assert found[0x0131] == (2, b"mlxdiff 1\0")


def test_piexif_reads_it_as_the_web_ui_does():
    piexif = pytest.importorskip("piexif")
    from piexif import helper

    comment = piexif.load(exif.write({"parameters": TEXT}))["Exif"][piexif.ExifIFD.UserComment]
    assert helper.UserComment.load(comment) == TEXT


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["parameters", "Software", "mlxdiff"]), st.text(st.characters(codec="ascii"))))
def test_what_is_written_comes_back(texts):
    texts = {name: text.replace("\0", "") for name, text in texts.items()}
    texts = {name: text for name, text in texts.items() if text.strip() or name != "parameters"}
    if "parameters" in texts:  # of a few control characters alone nobody can tell the byte order
        texts["parameters"] += ", Steps: 3"
    data = exif.write(texts, "mlxdiff" if "mlxdiff" in texts else None)
    assert exif.read(data) == texts
    assert exif.read(data[6:]) == texts  # as PNG and WebP hold it
    with Image.open(io.BytesIO(jpeg_with(data))) as picture:  # and Pillow finds it
        found = picture.getexif().get_ifd(0x8769)
    assert bytes(found.get(0x9286, b""))[8:].decode("utf-16-be") == texts.get("parameters", "")


def jpeg_with(data: bytes) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (1, 1)).save(stream, "JPEG", exif=data)
    return stream.getvalue()


@pytest.mark.parametrize("text", [TEXT, "猫が好き、とても。12", "two words", "Стол\nшаги: 5", "a", "😀 ok"])
@pytest.mark.parametrize(
    "form",
    [
        lambda text: b"UNICODE\0" + text.encode("utf-16-be"),
        lambda text: b"UNICODE\0" + text.encode("utf-16-le"),
        lambda text: b"UNICODE\0\xfe\xff" + text.encode("utf-16-be"),
        lambda text: b"UNICODE\0\xff\xfe" + text.encode("utf-16-le"),
        lambda text: b"UNICODE\0" + text.encode("utf-8"),
        lambda text: b"UNICODE\0\xef\xbb\xbf" + text.encode("utf-8"),
        lambda text: b"unicode " + text.encode("utf-16-be"),
        lambda text: b"ASCII\0\0\0" + text.encode("utf-8"),
        lambda text: bytes(8) + text.encode("utf-8"),
        lambda text: bytes(8) + text.encode("utf-16-le"),
        lambda text: text.encode("utf-8") + b"\0",
        lambda text: b"JIS\0\0\0\0\0" + text.encode("utf-8"),
    ],
    ids=["be", "le", "be-bom", "le-bom", "utf8", "utf8-bom", "small", "ascii", "none", "none-le", "bare", "jis-utf8"],
)
def test_every_way_to_write_a_comment(form, text):
    data = form(text)
    if data.startswith(b"UNICODE") and b"\0" not in data[8:] and len(text) == 1:
        return
    assert exif.user_comment(data) == text


@pytest.mark.parametrize("code", ["iso2022_jp", "shift_jis"])
def test_japanese_codes(code):
    assert exif.user_comment(b"JIS\0\0\0\0\0" + "赤い林檎、Steps: 4".encode(code)) == "赤い林檎、Steps: 4"


@pytest.mark.parametrize("blank", [b"ASCII\0\0\0" + bytes(20), b"ASCII\0\0\0    ", bytes(64), b"UNICODE\0"])
def test_the_empty_comments_of_cameras_are_none(blank):
    made = Image.Exif()
    made.get_ifd(0x8769)[0x9286] = blank
    assert exif.read(made.tobytes()) == {}


def test_latin_1_where_it_is_no_utf_8():
    assert exif.user_comment(b"ASCII\0\0\0caf\xe9, Steps: 3") == "café, Steps: 3"


def test_byte_order_of_the_file_and_types_of_others():
    """Little-endian, UserComment as BYTE and as ASCII, and ComfyUI's texts in Make and Model."""
    for kind in (1, 2, 7):
        value = b"ASCII\0\0\0red, Steps: 3"
        inner = struct.pack("<HHHII", 1, 0x9286, kind, len(value), 26 + 18) + bytes(4) + value
        tiff = b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x8769, 4, 1, 26) + bytes(4) + inner
        assert exif.read(tiff) == {"parameters": "red, Steps: 3"}
    made = Image.Exif()
    made[0x0110], made[0x010F] = 'prompt:{"3": {}}', 'Workflow:{"nodes": []}'
    assert exif.read(made.tobytes()) == {"prompt": '{"3": {}}', "workflow": '{"nodes": []}'}


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=4), st.integers(0, 300))
def test_damage_is_left_out(at, wrong, length):
    data = bytearray(exif.write({"parameters": TEXT, "mlxdiff": "{}", "Software": "x"}, "mlxdiff"))
    at %= len(data)
    data[at : at + len(wrong)] = wrong
    for part in (bytes(data), bytes(data[:length])):
        assert all(isinstance(text, str) for text in exif.read(part).values())
