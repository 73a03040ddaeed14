"""The product with a matrix of 8 or 4 bits: MLX's own, the extension's, or its matrix in full and a plain product."""

from __future__ import annotations

import mlx.core as mx

from . import native
from .linear import linear, product

# On a CPU MLX's product goes through the packed matrix again for each row of x, on one thread: 20 times as long as
# unpacking it once and multiplying with BLAS. For fewer rows than this the unpacking costs more.
_ROWS_TO_UNPACK_FOR = 8


def quantized_product(
    x: mx.array,
    weight: mx.array,
    scales: mx.array,
    biases: mx.array | None,
    *,
    group_size: int,
    bits: int,
    low_rank: tuple[mx.array, mx.array] | None = None,
) -> mx.array:
    """x (..., C) times the transpose of a matrix (O, C) in mx.quantize's packed form: (..., O).

    low_rank  down (r, C) and up (O, r) whose product is added to the matrix, which is never rounded with it
    """
    if mx.default_device() == mx.cpu and x.size // x.shape[-1] >= _ROWS_TO_UNPACK_FOR:
        extension = native.serving(x, scales, biases)
        if extension is not None and x.dtype == mx.float32 and low_rank is None and biases is not None:
            return extension.quantized_linear(x, weight, scales, biases, group_size, bits)
        # Else MLX unpacks matrices long before their turn, for it needs nothing else for that, and keeps them.
        weight = mx.depends([weight], [x])[0]
        whole = mx.dequantize(weight, scales, biases, group_size=group_size, bits=bits, dtype=x.dtype)
        if low_rank is not None:  # less work than for each row of x
            down, up = low_rank
            whole = whole + product(up, down)
        return linear(x, whole)
    out = mx.quantized_matmul(x, weight, scales, biases, group_size=group_size, bits=bits)
    if low_rank is not None:
        down, up = low_rank
        out = out + linear(linear(x, down), up)
    return out
