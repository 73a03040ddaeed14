"""PNG and APNG files, with every kind of fault made by hand; what is sound, Pillow reads."""

from __future__ import annotations

import io
import random
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from mlxdiff.checking.fault import UnsoundError
from mlxdiff.checking.png_file import check_png
from mlxdiff.checking.reading import steady
from mlxdiff.containers.png import SIGNATURE
from mlxdiff.images import encode_picture

PIXELS = np.random.default_rng(0).integers(0, 256, (13, 11, 3)).astype(np.uint8)
SOUND = encode_picture("a.png", PIXELS, {"parameters": "a, Steps: 3", "mlxdiff": "{}"})


def fault_of(path, data: bytes) -> str | None:
    """The kind of fault, None for a sound file."""
    path.write_bytes(data)
    try:
        with steady(path) as stream:
            stream.read(1)
            check_png(stream)
    except UnsoundError as error:
        return error.kind if error.problem.endswith(".") else error.problem
    return None


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.png"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], len(SIGNATURE)
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    return SIGNATURE + b"".join(chunk(kind, data) for kind, data in chunks)


def header(width: int, height: int, depth: int = 8, colour: int = 2, interlaced: int = 0) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)


def test_every_single_bit_counts(path):
    assert fault_of(path, SOUND) is None
    for at in range(len(SIGNATURE), len(SOUND)):
        data = bytearray(SOUND)
        data[at] ^= 1 << (at % 8)
        assert fault_of(path, bytes(data)) == "damaged", at


def test_every_cut_is_found(path):
    assert {fault_of(path, SOUND[:length]) for length in range(len(SIGNATURE), len(SOUND))} == {"damaged"}


@pytest.mark.parametrize("behind", [b"\0", b"PK\x03\x04" + bytes(100), SOUND])
def test_what_is_behind_the_end(path, behind):
    assert fault_of(path, SOUND + behind) == "trailing"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_kind_of_pixels(path, mode):
    """Rows of every width in bytes; the last ones are missing or too many."""
    values = np.arange(35 * 9, dtype=np.uint16).reshape(9, 35) * 200
    made = Image.fromarray(values) if mode == "I;16" else Image.fromarray((values >> 8).astype(np.uint8)).convert(mode)
    stream = io.BytesIO()
    made.save(stream, "PNG")
    assert fault_of(path, stream.getvalue()) is None
    parts = dict(chunks_of(stream.getvalue()))
    rows = zlib.decompress(parts[b"IDAT"])
    for changed in (rows[:-1], rows + b"\0", rows[: len(rows) // 2]):
        parts[b"IDAT"] = zlib.compress(changed)
        assert fault_of(path, png_of(list(parts.items()))) == "damaged"
    parts[b"IDAT"] = zlib.compress(b"\x05" + rows[1:])  # a filter that there is none of
    assert fault_of(path, png_of(list(parts.items()))) == "damaged"


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (4, 5), (8, 8), (9, 17)])
def test_interlaced_ones(path, size):
    """Adam7's passes by the standard's own formula, pass by pass and row by row."""
    width, height = size
    rows = b""
    for x, y, dx, dy in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        columns, lines = len(range(x, width, dx)), len(range(y, height, dy))
        rows += (b"\0" + bytes([7]) * (3 * columns)) * (lines if columns else 0)
    chunks = [header(width, height, interlaced=1), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    assert fault_of(path, png_of(chunks)) is None
    with Image.open(path) as picture:
        assert set(np.asarray(picture).ravel()) == {7}
    chunks[1] = b"IDAT", zlib.compress(rows[:-1])
    assert fault_of(path, png_of(chunks)) == "damaged"


def test_chunks_out_of_order(path):
    parts = chunks_of(SOUND)
    data = next(data for kind, data in parts if kind == b"IDAT")
    (head, *others), end = parts, parts[-1]
    half = len(data) // 2
    wrong = {
        "no pixels": [head, end],
        "no header": [*others],
        "two headers": [head, *parts],
        "pixels in two places": [head, (b"IDAT", data[:half]), (b"tEXt", b"a\0b"), (b"IDAT", data[half:]), end],
        "pixels behind the pixels": [head, (b"IDAT", data + b"\0"), end],
        "an unknown chunk that matters": [head, (b"ABCD", b""), *others],
        "no end": parts[:-1],
        "an end with data": [*parts[:-1], (b"IEND", b"a")],
        "a palette that is not there": [(b"IHDR", header(13, 11, 8, 3)[1]), *others],
        "nothing": [],
    }
    for name, chunks in wrong.items():
        assert fault_of(path, png_of(chunks)) == "damaged", name
    split = [head, (b"IDAT", data[:half]), (b"IDAT", b""), (b"IDAT", data[half:]), (b"zzZz", b"fine"), end]
    assert fault_of(path, png_of(split)) is None


def animated() -> bytes:
    frames = [Image.fromarray(np.roll(PIXELS, i, 0)) for i in range(3)]
    stream = io.BytesIO()
    frames[0].save(stream, "PNG", save_all=True, append_images=frames[1:], duration=50)
    return stream.getvalue()


def test_animations(path):
    data = animated()
    assert fault_of(path, data) is None
    parts = chunks_of(data)
    frames = [at for at, (kind, _) in enumerate(parts) if kind == b"fdAT"]
    assert len(frames) == 2
    first = frames[0]
    sequence, packed = parts[first][1][:4], parts[first][1][4:]
    rows = zlib.decompress(packed)
    wrong = {
        "a frame less": parts[: frames[1] - 1] + parts[frames[1] + 1 :],
        "out of order": [*parts[:first], (b"fdAT", b"\0\0\0\x09" + packed), *parts[first + 1 :]],
        "short": [*parts[:first], (b"fdAT", sequence + zlib.compress(rows[:-1])), *parts[first + 1 :]],
        "torn": [*parts[:first], (b"fdAT", sequence + packed[:-6]), *parts[first + 1 :]],
        "unannounced": [part for at, part in enumerate(parts) if at != first - 1],
    }
    for name, chunks in wrong.items():
        assert fault_of(path, png_of(chunks)) == "damaged", name
    for at in range(len(SIGNATURE), len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        assert fault_of(path, bytes(changed)) == "damaged", at


def test_a_small_file_that_unpacks_to_much_needs_no_memory(path):
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(256)) + packer.flush()
    large = png_of([header(2**13, 2**13), (b"IDAT", bomb), (b"IEND", b"")])  # which is more than these
    small = png_of([header(8, 8), (b"IDAT", bomb), (b"IEND", b"")])
    tracemalloc.start()
    try:
        assert fault_of(path, large) == "damaged"
        assert fault_of(path, small) == "damaged"
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (2**20, 2**20)])
def test_a_size_that_cannot_be_is_not_begun(path, size):
    assert fault_of(path, png_of([header(*size), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")])) == "too-large"


def test_frames_without_number_are_bounded(path):
    """Each is small in the file, and large on the screen."""
    size = 2**14
    control = [(b"fcTL", struct.pack(">IIIIIHHBB", 1 + i, size, size, 0, 0, 1, 1, 0, 0)) for i in range(20)]
    blank = zlib.compress(b"")
    chunks = [header(size, size, 1, 0), (b"acTL", struct.pack(">II", 20, 0)), (b"IDAT", blank), *control]
    assert fault_of(path, png_of(chunks)) in ("damaged", "too-large")


def test_a_chunk_that_claims_gigabytes(path):
    data = SIGNATURE + chunk(*header(8, 8)) + struct.pack(">I", 2**31 - 1) + b"IDAT" + bytes(100)
    assert fault_of(path, data) == "damaged"


def test_what_is_sound_is_read_by_pillow(path):
    """Pixels and chunks are changed with right checksums: whatever is called sound decodes without a complaint."""
    chance = random.Random(5)
    outcomes = {"sound": 0, "damaged": 0}
    texts = PngImagePlugin.PngInfo()
    texts.add_text("a", "b" * 40)
    for mode in ("RGB", "P", "LA"):
        stream = io.BytesIO()
        Image.fromarray(PIXELS).convert(mode).save(stream, "PNG", pnginfo=texts)
        parts = chunks_of(stream.getvalue())
        for _ in range(250):
            changed = list(parts)
            at = chance.randrange(len(changed))
            kind, data = changed[at]
            if kind == b"IDAT" and chance.random() < 0.5:
                data = zlib.decompress(data)
            if data:
                place = chance.randrange(len(data))
                data = data[:place] + bytes([chance.randrange(256)]) * chance.choice((0, 1, 1, 2)) + data[place + 1 :]
            changed[at] = kind, (zlib.compress(data) if kind == b"IDAT" and chance.random() < 0.5 else data)
            outcome = fault_of(path, png_of(changed))
            outcomes["sound" if outcome is None else "damaged"] += 1
            if outcome is None:
                with Image.open(path) as picture:
                    picture.load()
    assert min(outcomes.values()) > 50
