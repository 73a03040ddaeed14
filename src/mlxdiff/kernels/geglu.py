"""GEGLU (Shazeer 2020): one half of a linear layer's output, gated by the GELU of the other."""

from __future__ import annotations

from functools import cache
from typing import Any

import mlx.core as mx

from .activations import gelu

# A thread makes four outputs.
_SOURCE = """
  const size_t width = x_shape[1] / 2, quads = width / 4;
  const size_t index = size_t(blockIdx.x) * blockDim.x + threadIdx.x, row = index / quads;
  if (row >= x_shape[0]) return;
  const size_t column = index % quads * 4;
  auto value = *reinterpret_cast<const Pack*>(x + row * 2 * width + column);
  const auto gate = *reinterpret_cast<const Pack*>(x + row * 2 * width + width + column);
  for (int i = 0; i < 4; i++) {
    const float g = float(gate.at[i]);
    value.at[i] = T(float(value.at[i]) * g * 0.5f * (1.0f + erff(g * 0.70710678f)));
  }
  *reinterpret_cast<Pack*>(out + row * width + column) = value;
"""
_PACK = "  struct alignas(4 * sizeof(T)) Pack { T at[4]; };\n"
_THREADS = 256


def geglu(x: mx.array) -> mx.array:
    """x (..., 2 W) -> (..., W): its first half times the exact GELU of its second."""
    if mx.default_device() != mx.cpu and mx.cuda.is_available() and x.shape[-1] % 8 == 0:
        return _on_cuda(x)
    return plain(x)


def plain(x: mx.array) -> mx.array:
    """`geglu` in MLX's own operations."""
    x, gate = mx.split(x, 2, axis=-1)
    return x * gelu(gate)


def _on_cuda(x: mx.array) -> mx.array:
    flat = x.reshape(-1, x.shape[-1])
    rows, width = flat.shape[0], flat.shape[1] // 2
    (out,) = _kernel()(
        inputs=[flat],
        template=[("T", x.dtype)],
        grid=(-(-rows * width // 4 // _THREADS) * _THREADS, 1, 1),
        threadgroup=(_THREADS, 1, 1),
        output_shapes=[(rows, width)],
        output_dtypes=[x.dtype],
    )
    return out.reshape(*x.shape[:-1], width)


@cache
def _kernel() -> Any:
    return mx.fast.cuda_kernel(name="mlxdiff_geglu", input_names=["x"], output_names=["out"], source=_PACK + _SOURCE)
