"""What JPEG, WebP and GIF files hold beside their pixels, and how large they are: found without decoding a pixel.

JPEG: ITU T.81 annex B; Exif and XMP in APP1, a comment in COM. WebP: RIFF chunks EXIF and `XMP `. GIF89a: XMP in an
application extension. png.py does PNG.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import BinaryIO

from . import exif

MAX_TEXT = 2**22  # bytes of one chunk
_MAX_PARTS = 2**16
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
GIF_XMP = b"\x21\xff\x0bXMP DataXMP"
GIF_BEHIND_XMP = bytes([1, *range(255, -1, -1), 0])  # leads whoever skips sub-blocks to the end
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset((*range(0xD0, 0xD9), 0x01))  # markers without a length


@dataclass
class Container:
    """`size` is (width, height) in pixels; texts by the names that PNG files give them."""

    format: str
    size: tuple[int, int] = (0, 0)
    texts: dict[str, str] = field(default_factory=dict)


def read(stream: BinaryIO) -> Container | None:
    """What the file at its start says; None for another format, or one that is too damaged to tell its size."""
    stream.seek(0)
    head = stream.read(12)
    if head[:2] == b"\xff\xd8":
        found = _jpeg(stream)
    elif head[:4] == b"RIFF" and head[8:] == b"WEBP":
        found = _webp(stream)
    elif head[:6] in (b"GIF87a", b"GIF89a"):
        found = _gif(stream)
    else:
        return None
    return found if min(found.size) > 0 else None


def _jpeg(stream: BinaryIO) -> Container:
    found = Container("JPEG")
    stream.seek(2)
    for _ in range(_MAX_PARTS):
        mark = stream.read(2)
        while mark == b"\xff\xff":
            mark = mark[1:] + stream.read(1)
        if len(mark) < 2 or mark[0] != 0xFF or mark[1] in (0xD9, 0xDA):
            break
        if mark[1] in _BARE:
            continue
        length = int.from_bytes(stream.read(2), "big") - 2
        end = stream.tell() + length
        if length < 0:
            break
        if mark[1] in _FRAMES and length >= 5:
            frame = stream.read(5)
            height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
            found.size = width, height
        elif mark[1] == 0xE1:
            data = stream.read(length)
            if data[:6] == b"Exif\0\0":
                found.texts = exif.read(data) | found.texts
            elif data.startswith(_XMP):
                found.texts["xmp"] = data[len(_XMP) :].decode("utf-8", "replace")
        elif mark[1] == 0xFE:
            found.texts.setdefault("Comment", stream.read(length).decode("utf-8", "replace"))
        stream.seek(end)
    return found


def _webp(stream: BinaryIO) -> Container:
    found = Container("WEBP")
    stream.seek(12)
    for _ in range(_MAX_PARTS):
        header = stream.read(8)
        if len(header) < 8:
            break
        kind, length = header[:4], int.from_bytes(header[4:], "little")
        end = stream.tell() + length + length % 2
        if kind in (b"VP8X", b"VP8L", b"VP8 "):
            found.size = _webp_size(kind, stream.read(min(length, 10))) if found.size == (0, 0) else found.size
        elif kind == b"EXIF" and length <= MAX_TEXT:
            found.texts = exif.read(stream.read(length)) | found.texts
        elif kind == b"XMP " and length <= MAX_TEXT:
            found.texts["xmp"] = stream.read(length).decode("utf-8", "replace")
        stream.seek(end)
    return found


def _webp_size(kind: bytes, data: bytes) -> tuple[int, int]:
    if len(data) < (5 if kind == b"VP8L" else 10):
        return 0, 0
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[4:7], "little"), 1 + int.from_bytes(data[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", data[6:10])
    return width & 0x3FFF, height & 0x3FFF


def _gif(stream: BinaryIO) -> Container:
    found = Container("GIF")
    stream.seek(6)
    screen = stream.read(7)
    if len(screen) < 7:
        return found
    found.size = struct.unpack("<HH", screen[:4])
    stream.seek(13 + gif_table(screen[4]))
    for _ in range(_MAX_PARTS):
        start = stream.tell()
        kind = stream.read(1)
        if kind == b"\x21":
            stream.seek(start)
            if stream.read(len(GIF_XMP)) == GIF_XMP and "xmp" not in found.texts:
                packet = stream.read(MAX_TEXT).partition(GIF_BEHIND_XMP)[0]
                found.texts["xmp"] = packet.decode("utf-8", "replace")
            stream.seek(start + 2)
        elif kind == b"\x2c" and len(place := stream.read(9)) == 9:
            stream.seek(gif_table(place[8]) + 1, 1)  # and the size of LZW codes
        else:
            break
        while length := stream.read(1):
            if length == b"\0":
                break
            stream.seek(length[0], 1)
    return found


def gif_table(flags: int) -> int:
    """Bytes of the table of colours that the flags of a screen or of a picture announce."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0
