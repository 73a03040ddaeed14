"""GEGLU of a linear layer in one kernel: how native/cuda/linear_geglu_sm90a.cu is run."""

from __future__ import annotations

import mlx.core as mx

from . import cuda, hopper

_ROWS, _COLUMNS, _DEPTH, _STAGES = 128, 128, 64, 4  # of a block's tile; the kernel has them too
_STORED_ROWS = 64
_THREADS = 384
_STAGE_BYTES = (_ROWS + 2 * _COLUMNS) * _DEPTH * 2
_OUT_BYTES, _BIAS_BYTES = _ROWS * _COLUMNS * 2, 2 * 2 * _COLUMNS * 4
_SHARED_BYTES = _STAGES * (_STAGE_BYTES + hopper.BARRIER_BYTES) + _OUT_BYTES + _BIAS_BYTES + 3 * hopper.MAP_BYTES
_FEWEST_ROWS = 1024  # below, most multiprocessors have no tile, and cuBLAS is faster


def takes(x: mx.array, weight: mx.array, bias: mx.array) -> bool:
    """Whether the kernel applies to x (..., C) and the layer with weight (2 W, C) and bias (2 W,)."""
    depth, width = x.shape[-1], weight.shape[0] // 2
    half = x.dtype in (mx.float16, mx.bfloat16) and weight.dtype == bias.dtype == x.dtype
    fits = depth % 8 == 0 and width % 8 == 0 and x.size >= _FEWEST_ROWS * depth
    return half and fits and hopper.available()


def run(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """GEGLU of the layer: (..., W)."""
    depth, width = x.shape[-1], weight.shape[0] // 2
    rows = x.size // depth
    tiles = -(-rows // (2 * _ROWS)) * -(-width // _COLUMNS)
    blocks = 2 * min(tiles, hopper.multiprocessors() // 2)
    boxes = (_ROWS, _DEPTH), (_COLUMNS, _DEPTH), (_STORED_ROWS, _DEPTH)
    shapes = (rows, depth), (2 * width, depth), (rows, width)
    out, _ = cuda.launch(
        "linear_geglu_sm90a",
        "linear_geglu",
        [x, weight, bias, hopper.tensor_maps(*zip(shapes, boxes, strict=True), dtype=x.dtype)],
        [rows, depth, width],
        blocks=(blocks, 1),
        threads=_THREADS,
        outputs=[((*x.shape[:-1], width), x.dtype), ((blocks * 3 * hopper.MAP_BYTES,), mx.uint8)],
        shared_bytes=_SHARED_BYTES,
    )
    return out
