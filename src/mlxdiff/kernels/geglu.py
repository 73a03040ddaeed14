"""GEGLU (Shazeer 2020): one half of a linear layer's output, gated by the GELU of the other."""

from __future__ import annotations

from functools import cache
from typing import Any

import mlx.core as mx

from .activations import gelu

# A thread makes WIDE outputs.
_SOURCE = """
  struct alignas(WIDE * sizeof(T)) Pack { T at[WIDE]; };
  const unsigned width = x_shape[x_ndim - 1] / 2, columns = width / WIDE;
  unsigned rows = 1;
  for (int i = 0; i < x_ndim - 1; i++) rows *= x_shape[i];
  const unsigned index = blockIdx.x * blockDim.x + threadIdx.x, row = index / columns;
  if (row >= rows) return;
  const unsigned column = index % columns * WIDE;
  const T* from = x + size_t(row) * 2 * width + column;
  auto value = *reinterpret_cast<const Pack*>(from);
  const auto gate = *reinterpret_cast<const Pack*>(from + width);
  for (int i = 0; i < WIDE; i++) {
    const float g = float(gate.at[i]);
    value.at[i] = T(float(value.at[i]) * g * (0.5f + 0.5f * erff(g * 0.70710678f)));
  }
  *reinterpret_cast<Pack*>(out + size_t(row) * width + column) = value;
"""
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
    width = x.shape[-1] // 2
    wide = 8 if width % 8 == 0 and x.itemsize == 2 else 4  # 16 bytes
    threads = x.size // 2 // wide
    (out,) = _kernel()(
        inputs=[x],
        template=[("T", x.dtype), ("WIDE", wide)],
        grid=(-(-threads // _THREADS) * _THREADS, 1, 1),
        threadgroup=(_THREADS, 1, 1),
        output_shapes=[(*x.shape[:-1], width)],
        output_dtypes=[x.dtype],
    )
    return out


@cache
def _kernel() -> Any:
    return mx.fast.cuda_kernel(name="mlxdiff_geglu", input_names=["x"], output_names=["out"], source=_SOURCE)
