"""Every byte of a PNG or APNG file: chunks in order, each with its checksum, all rows of all frames, nothing behind.

PNG 3rd edition: 5 (datastream), 11.2 and 11.3.6 (IHDR, IDAT, IEND, acTL, fcTL, fdAT). Pixels are unpacked and counted a
megabyte at a time, so that a file needs no memory for what it claims to be; what it may claim is bounded by time.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ..containers import xmp
from ..containers.png import MAX_CHUNKS, SIGNATURE
from ..images import OWN
from ..request.pictures import MAX_PIXELS
from .fault import UnsoundError, damaged
from .reading import BLOCK, length_of
from .rows import Header, Rows, read_header

MAX_ALL = 2**31  # pixels of all frames
_KEYWORD = 80  # bytes, with its NUL
_TELLING = {name.encode() for name in (*OWN, "parameters", xmp.NAME)}
_ONCE = (b"IHDR", b"PLTE", b"IEND", b"acTL")
_KNOWN = (b"IHDR", b"PLTE", b"IDAT", b"IEND")


@dataclass
class _Chunk:
    kind: bytes
    length: int
    stream: BinaryIO

    def blocks(self) -> Iterator[bytes]:
        """Its data, and then its checksum is looked at. Raises UnsoundError."""
        name, left = self.kind.decode("latin-1"), self.length
        check = zlib.crc32(self.kind)
        while left:
            block = self.stream.read(min(left, BLOCK))
            if not block:
                raise damaged(f"It ends inside its {name} chunk.")
            check, left = zlib.crc32(block, check), left - len(block)
            yield block
        if self.stream.read(4) != check.to_bytes(4, "big"):
            raise damaged(f"The checksum of its {name} chunk is wrong.")

    def data(self) -> bytes:
        return b"".join(self.blocks())


@dataclass(frozen=True)
class PngFile:
    """`size` is (width, height) in pixels; `twice` are the names of mlxdiff's texts that are there twice."""

    size: tuple[int, int]
    frames: int
    twice: tuple[str, ...] = ()


def check_png(stream: BinaryIO) -> PngFile:
    """What a sound file has; raises UnsoundError, also where anything is behind its end."""
    stream.seek(len(SIGNATURE))
    look = _Look(length_of(stream))
    for chunk in _chunks(stream):
        look.at(chunk)
    behind = length_of(stream) - stream.tell()
    look.end()
    if behind:
        raise UnsoundError("trailing", f"{behind} bytes are behind its end.")
    assert look.header is not None
    return PngFile((look.header.width, look.header.height), max(1, look.frames), tuple(look.twice))


def _chunks(stream: BinaryIO) -> Iterator[_Chunk]:
    """The chunks to IEND, each as its data are to be read by whoever takes it."""
    size = length_of(stream)
    for _ in range(MAX_CHUNKS):
        head = stream.read(8)
        if len(head) < 8:
            raise damaged("It ends before its last chunk.")
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if not kind.isalpha():
            raise damaged("There is no chunk where one should begin.")
        if stream.tell() + length + 4 > size:
            raise damaged(f"It ends inside its {kind.decode('latin-1')} chunk.")
        yield _Chunk(kind, length, stream)
        if kind == b"IEND":
            return
    raise damaged(f"It has more than {MAX_CHUNKS} chunks.")


class _Look:
    """What has been seen of a file so far."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.header: Header | None = None
        self.frames = 0
        self.twice: dict[str, None] = {}
        self._texts: set[bytes] = set()
        self._seen: set[bytes] = set()
        self._before = b""  # the chunk before
        self._pixels = 0  # of all frames so far
        self._rows: Rows | None = None  # of IDAT
        self._frame: Rows | None = None  # of fdAT
        self._wanted_frames: int | None = None
        self._number = 0  # of fcTL and fdAT

    def at(self, chunk: _Chunk) -> None:
        """Reads the chunk. Raises UnsoundError."""
        kind = chunk.kind
        if (kind == b"IHDR") != (not self._seen):
            raise damaged("Its first chunk is no header, or there are two.")
        if kind in _ONCE and kind in self._seen:
            raise damaged(f"It has two {kind.decode()} chunks.")
        if kind[:1].isupper() and kind not in _KNOWN:
            raise damaged(f"It has a chunk {kind.decode('latin-1')} that must be understood and is unknown.")
        self._seen.add(kind)
        reader = {b"IHDR": self._ihdr, b"IDAT": self._idat, b"acTL": self._actl, b"fcTL": self._fctl}
        reader |= {b"fdAT": self._fdat, b"IEND": self._empty}
        reader |= dict.fromkeys((b"tEXt", b"zTXt", b"iTXt"), self._text)
        reader.get(kind, self._skip)(chunk)
        self._before = kind

    def end(self) -> None:
        """Raises UnsoundError where pixels or frames are missing."""
        if self._rows is None:
            raise damaged("It has no pixels.")
        self._rows.end()
        if self._frame is not None:
            self._frame.end()
        if self._wanted_frames is not None and self.frames != self._wanted_frames:
            raise damaged(f"It has {self.frames} frames, and says that it has {self._wanted_frames}.")

    def _ihdr(self, chunk: _Chunk) -> None:
        data = _exactly(chunk, 13)
        self.header = read_header(data)

    def _idat(self, chunk: _Chunk) -> None:
        assert self.header is not None
        if self._rows is None:
            if self.header.colour == 3 and b"PLTE" not in self._seen:
                raise damaged("It has a palette of colours, and none is there.")
            self._rows = self._begin(self.header.width, self.header.height)
        elif self._before != b"IDAT":
            raise damaged("Its pixels are in two places.")
        for block in chunk.blocks():
            self._rows.feed(block)

    def _actl(self, chunk: _Chunk) -> None:
        if self._rows is not None:
            raise damaged("It becomes an animation behind its pixels.")
        self._wanted_frames = int.from_bytes(_exactly(chunk, 8)[:4], "big")

    def _fctl(self, chunk: _Chunk) -> None:
        assert self.header is not None
        data = _exactly(chunk, 26)
        self._count(data)
        width, height, x, y = (int.from_bytes(data[at : at + 4], "big") for at in (4, 8, 12, 16))
        if not width or not height or x + width > self.header.width or y + height > self.header.height:
            raise damaged("A frame is larger than the picture.")
        if self._frame is not None:
            self._frame.end()
        self.frames += 1
        self._frame = None if self._rows is None else self._begin(width, height)

    def _fdat(self, chunk: _Chunk) -> None:
        if self._frame is None:
            raise damaged("It has pixels of a frame that was not announced.")
        number = b""
        for block in chunk.blocks():
            missing = 4 - len(number)
            if missing > 0:
                number, block = number + block[:missing], block[missing:]
            self._frame.feed(block)
        self._count(number)

    def _empty(self, chunk: _Chunk) -> None:
        _exactly(chunk, 0)

    def _text(self, chunk: _Chunk) -> None:
        """Of two texts with one name, readers take the first or the last."""
        start = b""
        for block in chunk.blocks():
            start = start or block[:_KEYWORD]
        name = start.partition(b"\0")[0]
        if name in _TELLING:
            if name in self._texts:
                self.twice[name.decode()] = None
            self._texts.add(name)

    def _skip(self, chunk: _Chunk) -> None:
        for _ in chunk.blocks():
            pass

    def _count(self, data: bytes) -> None:
        if data[:4] != self._number.to_bytes(4, "big"):
            raise damaged("Its frames are not in order.")
        self._number += 1

    def _begin(self, width: int, height: int) -> Rows:
        assert self.header is not None
        self._pixels += width * height
        if width * height > MAX_PIXELS or self._pixels > MAX_ALL:
            raise UnsoundError("too-large", f"It says that it is {width}x{height} pixels; more than can be looked at.")
        return Rows(self.header, width, height)


def _exactly(chunk: _Chunk, length: int) -> bytes:
    if chunk.length != length:
        raise damaged(f"Its {chunk.kind.decode()} chunk has {chunk.length} bytes, not {length}.")
    return chunk.data()
