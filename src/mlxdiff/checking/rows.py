"""The rows of a PNG picture as they come out of decompression: as many as there should be, each with a filter.

PNG 3rd edition: 7.2 (rows), 8.1 (Adam7), 9.2 (the byte before each row).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from .fault import damaged

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_UNPACKED = 2**20  # bytes at once


@dataclass(frozen=True)
class Header:
    """What IHDR says."""

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool

    def passes(self, width: int, height: int) -> list[tuple[int, int]]:
        """(bytes a row with its filter, rows) of each pass of pixels of that size."""
        sizes = [(width, height)]
        if self.interlaced:
            sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in _ADAM7]
        bits = self.depth * _CHANNELS[self.colour]
        return [(1 + (w * bits + 7) // 8, h) for w, h in sizes if w > 0 and h > 0]


def read_header(data: bytes) -> Header:
    """Raises UnsoundError for a header that PNG does not have."""
    width, height = int.from_bytes(data[:4], "big"), int.from_bytes(data[4:8], "big")
    depth, colour, packing, filters, interlaced = data[8:13]
    if not (0 < width < 2**31 and 0 < height < 2**31):
        raise damaged(f"It says that it is {width}x{height} pixels.")
    if depth not in _DEPTHS.get(colour, ()) or packing or filters or interlaced > 1:
        raise damaged("Its header asks for what PNG does not have.")
    return Header(width, height, depth, colour, bool(interlaced))


class Rows:
    """Takes compressed data piece by piece; holds a megabyte, whatever the data unpack to."""

    def __init__(self, header: Header, width: int, height: int) -> None:
        self._unpack = zlib.decompressobj()
        self._passes = header.passes(width, height)
        self._at = 0  # bytes of the first of these passes

    def feed(self, data: bytes) -> None:
        """Raises UnsoundError for data that do not unpack, or to other rows than there should be."""
        while data:
            if self._unpack.eof:
                raise damaged("Its pixels are followed by more data.")
            try:
                rows = self._unpack.decompress(data, _UNPACKED)
            except zlib.error:
                raise damaged("Its pixels cannot be unpacked.") from None
            data = self._unpack.unconsumed_tail or self._unpack.unused_data
            self._take(rows)

    def end(self) -> None:
        """Raises UnsoundError where the data ended early."""
        if not self._unpack.eof or self._passes:
            raise damaged("It has fewer pixels than its size asks for.")

    def _take(self, rows: bytes) -> None:
        array = np.frombuffer(rows, np.uint8)
        while array.size:
            if not self._passes:
                raise damaged("It has more pixels than its size asks for.")
            stride, count = self._passes[0]
            part = array[: stride * count - self._at]
            filters = part[-self._at % stride :: stride]
            if filters.size and int(filters.max()) > 4:
                raise damaged("A row of its pixels has a filter that PNG does not have.")
            self._at += part.size
            if self._at == stride * count:
                self._passes, self._at = self._passes[1:], 0
            array = array[part.size :]
