"""The parts of JPEG, WebP and GIF files, from the first byte to the last: is the file whole, and anything behind it?

JPEG: ITU T.81 annex B. WebP: RFC 9649. GIF: GIF89a. They have no checksums: what the parts hold is Pillow's to judge.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ..containers.jpeg_webp_gif import GIF_BEHIND_XMP, GIF_XMP, gif_table
from .fault import UnsoundError, damaged

# The end of JPEG's compressed data: a marker that is neither a byte of 255 nor a restart.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_BARE = (0x01, *range(0xD0, 0xD9))  # markers without a length


@dataclass(frozen=True)
class Parts:
    """`frames` of an animation; `scans` is how often a JPEG decoder goes over the picture."""

    format: str
    frames: int = 1
    scans: int = 1


def check_parts(data: bytes) -> Parts | None:
    """What a whole file has; None for another format. Raises UnsoundError."""
    reader = _reader(data)
    if reader is None:
        return None
    parts, end = reader(data)
    if end < len(data):
        raise UnsoundError("trailing", f"{len(data) - end} bytes are behind its end.")
    return parts


def _reader(data: bytes) -> Callable[[bytes], tuple[Parts, int]] | None:
    if data[:2] == b"\xff\xd8":
        return _jpeg
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp
    return _gif if data[:6] in (b"GIF87a", b"GIF89a") else None


def _jpeg(data: bytes) -> tuple[Parts, int]:
    at, scans = 2, 0
    while True:
        found = _MARKER.match(data, at)
        if found is None:
            if data[at : at + 2] == b"\xff\xff":  # bytes that fill
                at += 1
                continue
            raise damaged("It ends before its end marker." if at >= len(data) - 1 else "A part does not begin.")
        kind, at = data[at + 1], at + 2
        if kind == 0xD9:
            if not scans:
                raise damaged("It has no pixels.")
            return Parts("JPEG", scans=scans), at
        if kind in _BARE:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        if length < 2 or at + length > len(data):
            raise damaged("It ends inside a part.")
        at += length
        if kind == 0xDA:
            scans += 1
            following = _MARKER.search(data, at)
            if following is None:
                raise damaged("It ends inside its pixels.")
            at = following.start()


def _webp(data: bytes) -> tuple[Parts, int]:
    end = 8 + int.from_bytes(data[4:8], "little")
    end += end % 2
    if end > len(data):
        raise damaged("It is shorter than it says.")
    at, frames, pictures = 12, 0, 0
    while at < end:
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + length + length % 2
        if at > end:
            raise damaged("It ends inside a part.")
        frames += kind == b"ANMF"
        pictures += kind in (b"VP8 ", b"VP8L")
    if not frames and not pictures:
        raise damaged("It has no pixels.")
    return Parts("WEBP", frames=max(1, frames)), end


def _gif(data: bytes) -> tuple[Parts, int]:
    if len(data) < 13:
        raise damaged("It ends inside its header.")
    at, frames = 13 + gif_table(data[10]), 0
    while True:
        kind = data[at : at + 1]
        if kind == b"\x3b":
            if not frames:
                raise damaged("It has no pixels.")
            return Parts("GIF", frames=frames), at + 1
        if kind == b"\x21":
            if data.startswith(GIF_XMP, at):  # is no row of blocks, but text and what leads behind it
                end = data.find(GIF_BEHIND_XMP, at)
                at = len(data) if end < 0 else end + len(GIF_BEHIND_XMP)
                continue
            at += 2
        elif kind == b"\x2c" and at + 10 < len(data):
            frames += 1
            at += 11 + gif_table(data[at + 9])  # and the size of LZW codes
        else:
            raise damaged("It ends before its end mark." if at >= len(data) - 10 else "A part does not begin.")
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
