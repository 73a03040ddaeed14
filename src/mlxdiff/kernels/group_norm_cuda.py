"""Group normalization on NVIDIA GPUs: how native/cuda/group_norm.cu is run."""

from __future__ import annotations

import mlx.core as mx

from . import cuda

_THREADS = 256  # of a block that keeps its group
_KEPT = (4, 12, 24, 48)  # pairs of channels in a thread's registers; each is a kernel of its own
_MOST_CHANNELS = 4096
_MOST_GROUPS = 256
_BLOCKS = 1024  # a few for each multiprocessor of a large GPU
_MOST_RUNS = 64
_ROWS_A_THREAD = 4


def takes(x: mx.array, groups: int) -> bool:
    """Whether the kernels apply to x (B, h, w, C)."""
    channels = x.shape[-1]
    fits = channels % cuda.wide(x) == 0 and channels % groups == 0 and channels <= _MOST_CHANNELS
    return x.ndim == 4 and fits and groups <= _MOST_GROUPS and cuda.available()


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
    columns = channels // cuda.wide(x)
    threads = columns * max(1, 256 // columns)
    most = max(1, min(_BLOCKS // batch, rows * columns // (_ROWS_A_THREAD * threads)))
    runs = min(_MOST_RUNS, most)
    (sums,) = cuda.launch(
        "group_norm",
        "group_norm_sums",
        [x, shift],
        [rows, channels, groups, shifts],
        blocks=(runs, batch),
        threads=threads,
        outputs=[((batch, runs, 2, groups), mx.float32)],
    )
    (out,) = cuda.launch(
        "group_norm",
        "group_norm_normalize",
        [x, weight, bias, shift, sums],
        [rows, channels, groups, runs, shifts, int(silu), eps],
        blocks=(most, batch),
        threads=threads,
        outputs=[(x.shape, x.dtype)],
    )
    return out
