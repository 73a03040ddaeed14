"""The texts inside a PNG file, found without decoding the picture, however large it claims to be.

PNG 3rd edition: 5.3 (chunk layout), 11.3.3 (tEXt, zTXt, iTXt). What the texts mean is the business of metadata/.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError
from ..inputs import open_input
from .exif import read as read_exif

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_TEXT = 2**22  # bytes of one text, also when it is unpacked
MAX_CHUNKS = 2**20
_KEYWORD = 80  # bytes: at most 79 and a NUL


def read_texts(path: str | Path, names: Collection[str], others: Collection[str] = ()) -> dict[str, str]:
    """The texts called `names`, the first of each, wherever they stand in the file; raises InputError for damage.

    `others` are read too, and left out where they are damaged or too large. An eXIf chunk is read as exif.py reads it,
    and adds what no chunk of its own says. A file that ends early is read as far as it goes: pictures cut off on the
    way still say how they were made.
    """
    found: dict[str, str] = {}
    exif: dict[str, str] = {}
    try:
        with open_input(path, "picture") as stream:
            for kind, start, length in _chunks(stream):
                if len(found) == len(names) + len(others):
                    break
                if kind == b"eXIf" and length <= MAX_TEXT and not exif:
                    exif = read_exif(stream.read(length))
                if kind not in (b"tEXt", b"zTXt", b"iTXt"):
                    continue
                name = stream.read(min(length, _KEYWORD)).partition(b"\0")[0].decode("latin-1")
                if name in found or (name not in names and name not in others):
                    continue
                stream.seek(start)
                try:
                    found[name] = _text(kind, _data(stream, kind, length))
                except _DamagedError:
                    if name in names:
                        raise
    except _DamagedError as error:
        raise InputError(f"{path} is damaged ({error}).", "Get the file again.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).", "Check the file and the disk.") from None
    return {name: text for name, text in exif.items() if name in names or name in others} | found


def read_size(stream: BinaryIO) -> tuple[int, int] | None:
    """(width, height) in pixels of the PNG file at whose start the stream is; None where it is none."""
    head = stream.read(24)
    if head[: len(SIGNATURE)] != SIGNATURE or head[12:16] != b"IHDR":
        return None
    size = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    return size if min(size) > 0 else None


def _chunks(stream: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Each chunk's kind, where its data starts and how long they are; the stream stands there."""
    at = len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        stream.seek(at)
        header = stream.read(8)
        length, kind = int.from_bytes(header[:4], "big"), header[4:]
        if len(header) < 8 or kind == b"IEND":
            return
        yield kind, at + 8, length
        at += 8 + length + 4


class _DamagedError(Exception):
    """What is wrong with a chunk."""


def _data(stream: BinaryIO, kind: bytes, length: int) -> bytes:
    if length > MAX_TEXT:
        raise _DamagedError(f"a text of {length} bytes")
    data, check = stream.read(length), stream.read(4)
    if len(data) < length or len(check) < 4:
        raise _DamagedError("it ends inside a text")
    if zlib.crc32(data, zlib.crc32(kind)) != int.from_bytes(check, "big"):
        raise _DamagedError("the checksum of a text is wrong")
    return data


def _text(kind: bytes, data: bytes) -> str:
    _, _, rest = data.partition(b"\0")
    if kind == b"tEXt":
        return _latin_or_utf8(rest)
    if kind == b"zTXt":
        return _latin_or_utf8(_unpacked(rest[1:]))
    packed, (_, _, text) = rest[:1] == b"\1", rest[2:].partition(b"\0")  # after the language
    text = text.partition(b"\0")[2]  # after the translated keyword
    try:
        return (_unpacked(text) if packed else text).decode("utf-8")
    except UnicodeDecodeError:
        raise _DamagedError("a text is not UTF-8") from None


def _latin_or_utf8(data: bytes) -> str:
    """Latin-1, as the standard wants; stable-diffusion.cpp and others write UTF-8, which Latin-1 hardly ever is."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _unpacked(data: bytes) -> bytes:
    unpack = zlib.decompressobj()
    try:
        text = unpack.decompress(data, MAX_TEXT)
    except zlib.error:
        raise _DamagedError("a text cannot be unpacked") from None
    if unpack.unconsumed_tail:
        raise _DamagedError(f"a text unpacks to more than {MAX_TEXT} bytes")
    return text
