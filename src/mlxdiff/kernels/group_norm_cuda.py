"""Group normalization on any NVIDIA GPU: how native/cuda/group_norm.cu is run."""

from __future__ import annotations

from math import lcm

import mlx.core as mx

from . import cuda

_THREADS = 256  # of a block that keeps its group
_KEPT = (4, 12, 24, 48)  # pairs of channels in a thread's registers; each is a kernel of its own
_MOST_CHANNELS = 4096
_MOST_GROUPS = 256
_BLOCKS = 528  # four for each multiprocessor of a large GPU, all at work at once
_ROWS_A_THREAD = 8
_MANY_RUNS = 64  # of an image: more of them are divided among slabs, so that nobody adds up the sums of all
_NARROW = 128  # bytes of a slab's rows below which reading them is slower


def takes(x: mx.array, groups: int) -> bool:
    """Whether the kernels apply to x (B, h, w, C)."""
    channels = x.shape[-1]
    fits = channels % cuda.wide(x) == 0 and channels % groups == 0 and channels <= _MOST_CHANNELS
    return x.ndim == 4 and fits and groups <= _MOST_GROUPS and cuda.available()


def slabs(channels: int, groups: int, itemsize: int) -> list[int]:
    """How many channels a slab of an image may have, ascending: whole groups, whole 16 bytes, a divisor of all."""
    least = lcm(channels // groups, 16 // itemsize)
    return [slab for slab in range(least, channels + 1, least) if channels % slab == 0]


def run(
    x: mx.array, weight: mx.array, bias: mx.array, groups: int, eps: float, shift: mx.array | None, *, silu: bool
) -> mx.array:
    """Group normalization of x (B, h, w, C) + shift (B or 1, C), and SiLU in the same pass if `silu`."""
    batch, height, width, channels = x.shape
    rows, size = height * width, channels // groups
    shifts = 0 if shift is None else shift.shape[0]
    shift = weight if shift is None else shift  # without shifts the kernels do not look at it
    weight, bias, shift = (a.astype(x.dtype) for a in (weight, bias, shift))
    lanes = _THREADS // max(1, size // 2)  # rows that a block takes at once
    if size % 2 == 0 and rows <= lanes * _KEPT[-1]:
        (out,) = cuda.launch(
            "group_norm",
            f"group_norm_whole_{next(k for k in _KEPT if k * lanes >= rows)}",
            [x, weight, bias, shift],
            [rows, channels, shifts, int(silu), eps],
            blocks=(groups, batch),
            threads=_THREADS,
            outputs=[(x.shape, x.dtype)],
        )
        return out
    slab = channels
    if _BLOCKS // batch > _MANY_RUNS:
        slab = next((s for s in slabs(channels, groups, x.itemsize) if s * x.itemsize >= _NARROW), channels)
    columns = slab // cuda.wide(x)
    threads = columns * max(1, 256 // columns)
    blocks = min(_BLOCKS * slab // (batch * channels), rows * columns // (_ROWS_A_THREAD * threads))
    runs = max(1, blocks)
    (sums,) = cuda.launch(
        "group_norm",
        "group_norm_sums",
        [x, shift],
        [rows, channels, size, slab, shifts],
        blocks=(runs * channels // slab, batch),
        threads=threads,
        outputs=[((batch, runs, groups, 2), mx.float32)],
    )
    (out,) = cuda.launch(
        "group_norm",
        "group_norm_normalize",
        [x, weight, bias, shift, sums],
        [rows, channels, size, slab, shifts, int(silu), eps],
        blocks=(runs * channels // slab, batch),
        threads=threads,
        outputs=[(x.shape, x.dtype)],
    )
    return out
