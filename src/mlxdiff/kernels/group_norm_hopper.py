"""Group normalization on Hopper GPUs, which keeps the map: how native/cuda/group_norm_sm90.cu is run."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from math import ceil
from typing import NamedTuple

import mlx.core as mx

from . import cuda, group_norm_cuda, hopper

# Bytes of shared memory that a block of so many threads asks for: what fits two blocks on a multiprocessor, or one.
# MLX sets a kernel's limit when it first runs, so each kernel always asks for the same.
_MEMORY = {256: 115712, 512: 232448}
_MOST_COLUMNS, _MOST_GROUPS = 64, 16  # of a slab, as in the source
_SECTOR = 32  # bytes that memory is read in
_NARROW = 128  # bytes of a slab's rows below which reading them is slower
_SMALL = 2**23  # bytes of a map that the L2 cache holds with ease: more blocks matter more there than wide rows


class Division(NamedTuple):
    """How a map is divided among blocks."""

    blocks: int  # of a cluster, which has a slab of an image
    threads: int  # of a block
    slab: int  # channels
    lanes: int  # rows that a block takes at once
    need: int  # times that a thread takes a row
    kept: int  # how many of those rows' numbers stay in shared memory; the others are read twice


def takes(x: mx.array, groups: int) -> bool:
    """Whether the kernels apply to x (B, h, w, C), and are faster there than those for any GPU."""
    return x.ndim == 4 and hopper.available() and _division(x, groups) is not None


def run(
    x: mx.array, weight: mx.array, bias: mx.array, groups: int, eps: float, shift: mx.array | None, *, silu: bool
) -> mx.array:
    """Group normalization of x (B, h, w, C) + shift (B or 1, C), and SiLU in the same pass if `silu`."""
    batch, height, width, channels = x.shape
    rows, size = height * width, channels // groups
    division = _division(x, groups)
    assert division is not None
    blocks, threads, slab, lanes, need, kept = division
    shifts = 0 if shift is None else shift.shape[0]
    shift = weight if shift is None else shift  # without shifts the kernels do not look at it
    (out,) = cuda.launch(
        "group_norm_sm90",
        f"group_norm_slabs_{blocks}_{threads}",
        [x, *(a.astype(x.dtype) for a in (weight, bias, shift))],
        [rows, channels, size, slab, lanes, need, kept, shifts, 1.0 / (rows * size), int(silu), eps],
        blocks=(channels // slab * blocks, batch),
        threads=threads,
        outputs=[(x.shape, x.dtype)],
        shared_bytes=_MEMORY[threads],
    )
    return out


def _division(x: mx.array, groups: int) -> Division | None:
    batch, height, width, channels = x.shape
    return divide(batch, height * width, channels, groups, x.itemsize, hopper.multiprocessors())


@cache
def divide(batch: int, rows: int, channels: int, groups: int, itemsize: int, multiprocessors: int) -> Division | None:
    """The fastest division of a map (batch, rows, channels), or None where reading it twice is as fast.

    The rules are measured on an H100. Best is one block on each multiprocessor, where the blocks keep most of the map.
    Else two blocks share one, and one writes while the other reads.
    """
    wide = 16 // itemsize
    if channels % groups or channels % wide or channels // groups < wide:
        return None
    most = min(_MOST_COLUMNS * wide, _MOST_GROUPS * channels // groups)
    slabs = [slab for slab in group_norm_cuda.slabs(channels, groups, itemsize) if slab <= most]

    def divisions(threads: int, choices: tuple[int, ...]) -> Iterator[tuple[Division, int, int]]:
        for blocks in choices:
            for slab in slabs:
                division = _divided(rows, blocks, threads, slab, itemsize)
                if blocks == 1 or rows >= blocks * division.lanes:
                    yield division, slab * itemsize, batch * channels // slab * blocks

    for division, row, total in divisions(512, (1, 2)):
        in_one_wave = 0.7 * multiprocessors <= total <= multiprocessors and division.kept >= 0.6 * division.need
        if in_one_wave and row >= _NARROW and row % _SECTOR == 0:
            return division
    least = _NARROW // 2 if batch * rows * channels * itemsize <= _SMALL else _NARROW
    enough = int(0.96 * multiprocessors)  # blocks: more are no faster
    options = [
        (max(0, enough - total), division)
        for division, row, total in divisions(256, (1, 2, 4, 8))
        if row >= least and division.kept >= 0.8 * division.need
    ]
    return min(options)[1] if options else None


def _divided(rows: int, blocks: int, threads: int, slab: int, itemsize: int) -> Division:
    columns = slab * itemsize // 16
    lanes = threads // columns
    need = ceil(ceil(rows / blocks) / lanes)
    sums = 16 * threads + 16 * _MOST_COLUMNS + 8 * blocks * _MOST_GROUPS
    return Division(blocks, threads, slab, lanes, need, min(need, (_MEMORY[threads] - sums) // (16 * columns * lanes)))
