"""Decoding a large picture piece by piece: the memory of one tile instead of the whole.

It works with any decoder that turns a latent cell into `factor` x `factor` pixels. The tiles overlap and are faded
into each other, because a decoder sees less around a tile's edge and normalizes each tile by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import mlx.core as mx

from ..errors import RequestError

Decoder = Callable[[mx.array], mx.array]


@dataclass(frozen=True)
class Tiles:
    """Where tiles of `size` lie along one axis, in latent cells.

    starts  of each tile; they are spread evenly and reach both ends
    fades   start of the band between two neighbours within which the one fades into the other
    fade    width of each band
    """

    size: int
    starts: tuple[int, ...]
    fades: tuple[int, ...]
    fade: int


def decode_tiled(decode: Decoder, latents: mx.array, tile: int, factor: int, *, overlap: int | None = None) -> mx.array:
    """Decodes latents (B, h, w, C) to (B, h*factor, w*factor, 3) in tiles of `tile` x `tile` pixels, blended linearly.

    `overlap` (pixels, a quarter of the tile unless given, a third at most) is how far neighbours share pixels at
    least. Each tile is evaluated before the next is begun: this is not lazy, unless one tile covers the picture, which
    is then decoded as a whole. Raises RequestError for sizes that are not multiples of `factor`.
    """
    overlap = tile // 4 // factor * factor if overlap is None else overlap
    for name, pixels in (("tile", tile), ("overlap", overlap)):
        if isinstance(pixels, bool) or not isinstance(pixels, int) or pixels < 0 or pixels % factor != 0:
            raise RequestError(f"The {name} is {pixels!r} pixels.", f"It is a multiple of {factor}.")
    if tile == 0 or 3 * overlap > tile:
        raise RequestError(
            f"Tiles of {tile} pixels cannot overlap by {overlap}.", "The overlap is at most a third of the tile."
        )
    rows, columns = (plan(length, tile // factor, overlap // factor) for length in latents.shape[1:3])
    if len(rows.starts) == len(columns.starts) == 1:
        return decode(latents)

    def strip(top: int) -> mx.array:
        cells = latents[:, top : top + rows.size]
        pieces = (_evaluated(decode(cells[:, :, left : left + columns.size])) for left in columns.starts)
        return _evaluated(join(pieces, columns, factor, axis=2))

    return join((strip(top) for top in rows.starts), rows, factor, axis=1)


def plan(length: int, size: int, overlap: int) -> Tiles:
    """As few tiles of `size` cells as cover `length` cells with neighbours sharing `overlap` or more."""
    if length <= size:
        return Tiles(length, (0,), (), overlap)
    count = -(-(length - overlap) // (size - overlap))
    starts = tuple(i * (length - size) // (count - 1) for i in range(count))
    # In the middle of what two neighbours share, as far as can be from the edges of both.
    fades = tuple((left + size + right - overlap) // 2 for left, right in pairwise(starts))
    return Tiles(size, starts, fades, overlap)


def join(pieces: Iterable[mx.array], tiles: Tiles, factor: int, *, axis: int) -> mx.array:
    """Sets decoded pieces side by side along an axis, fading each into the next; takes them one at a time."""
    return mx.concatenate(list(_segments(pieces, tiles, factor, axis)), axis=axis)


def _segments(pieces: Iterable[mx.array], tiles: Tiles, factor: int, axis: int) -> Iterator[mx.array]:
    """The pixels from one end to the other: what one piece has alone, then a fade, then the next alone."""
    previous = None
    for i, piece in enumerate(pieces):
        start = tiles.starts[i]
        alone_from, alone_to = 0, piece.shape[axis]
        if previous is not None:
            alone_from = (tiles.fades[i - 1] + tiles.fade - start) * factor
            yield _fade(previous, _cut(piece, alone_from - tiles.fade * factor, alone_from, axis), axis)
        if i < len(tiles.fades):
            alone_to = (tiles.fades[i] - start) * factor
            previous = _cut(piece, alone_to, alone_to + tiles.fade * factor, axis)
        yield _cut(piece, alone_from, alone_to, axis)


def _fade(left: mx.array, right: mx.array, axis: int) -> mx.array:
    """Linear, from `left` to `right`; the weights of a pixel sum to one."""
    width = left.shape[axis]
    weight = (mx.arange(width, dtype=mx.float32) + 0.5) / max(width, 1)
    weight = weight.reshape([-1 if i == axis else 1 for i in range(left.ndim)])
    return (left * (1 - weight) + right * weight).astype(left.dtype)


def _cut(piece: mx.array, start: int, stop: int, axis: int) -> mx.array:
    return piece[(*[slice(None)] * axis, slice(start, stop))]


def _evaluated(array: mx.array) -> mx.array:
    mx.eval(array)
    return array
