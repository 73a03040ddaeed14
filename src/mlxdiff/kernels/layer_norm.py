"""Layer normalization (Ba et al. 2016) over the last axis, alone or of the sum of a stream and what joins it."""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import mlx.core as mx

# A warp is one row of C channels, which it keeps in registers. ADD: y and its bias join x, and the sum is kept too.
_SOURCE = """
  struct alignas(4 * sizeof(T)) Pack { T at[4]; };
  const unsigned channels = x_shape[x_ndim - 1], lane = threadIdx.x % 32;
  unsigned rows = 1;
  for (int i = 0; i < x_ndim - 1; i++) rows *= x_shape[i];
  const unsigned row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  const size_t at = size_t(row) * channels;
  float kept[KEPT][4], sum = 0.0f, square = 0.0f;
  #pragma unroll
  for (int k = 0; k < KEPT; k++) {
    const unsigned channel = (k * 32 + lane) * 4;
    if (channel < channels) {
      const auto left = *reinterpret_cast<const Pack*>(x + at + channel);
      for (int i = 0; i < 4; i++) kept[k][i] = float(left.at[i]);
      if (ADD) {
        const auto right = *reinterpret_cast<const Pack*>(y + at + channel);
        const auto more = *reinterpret_cast<const Pack*>(y_bias + channel);
        Pack total;
        for (int i = 0; i < 4; i++) {
          total.at[i] = T(kept[k][i] + (float(right.at[i]) + float(more.at[i])));
          kept[k][i] = float(total.at[i]);
        }
        *reinterpret_cast<Pack*>(total_out + at + channel) = total;
      }
      for (int i = 0; i < 4; i++) sum += kept[k][i];
    }
  }
  for (int i = 16; i > 0; i /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, i);
  const float mean = sum / channels;
  #pragma unroll
  for (int k = 0; k < KEPT; k++) {
    if ((k * 32 + lane) * 4 < channels) {
      for (int i = 0; i < 4; i++) square += (kept[k][i] - mean) * (kept[k][i] - mean);
    }
  }
  for (int i = 16; i > 0; i /= 2) square += __shfl_xor_sync(0xffffffffu, square, i);
  const float scale = rsqrtf(square / channels + __int_as_float(EPS));
  #pragma unroll
  for (int k = 0; k < KEPT; k++) {
    const unsigned channel = (k * 32 + lane) * 4;
    if (channel < channels) {
      const auto gain = *reinterpret_cast<const Pack*>(weight + channel);
      const auto offset = *reinterpret_cast<const Pack*>(bias + channel);
      Pack result;
      for (int i = 0; i < 4; i++) {
        result.at[i] = T((kept[k][i] - mean) * scale * float(gain.at[i]) + float(offset.at[i]));
      }
      *reinterpret_cast<Pack*>(out + at + channel) = result;
    }
  }
"""
_THREADS = 128
_MOST_CHANNELS = 2048  # 16 packs a thread


def layer_norm(x: mx.array, weight: mx.array, bias: mx.array, eps: float) -> mx.array:
    """Normalizes x (..., C) over C, with a gain and a bias (C,) each, in x's dtype."""
    if _on_cuda(x):
        (out,) = _kernel(False)(inputs=[x, weight, bias], output_shapes=[x.shape], **_launch(x, eps, add=False))
        return out
    return mx.fast.layer_norm(x, weight, bias, eps)


def add_layer_norm(
    x: mx.array, y: mx.array, y_bias: mx.array, weight: mx.array, bias: mx.array, eps: float
) -> tuple[mx.array, mx.array]:
    """The sum x + y + y_bias, of shapes (..., C), (..., C) and (C,), and its layer normalization."""
    if _on_cuda(x):
        inputs = [x, y, y_bias, weight, bias]
        total, out = _kernel(True)(inputs=inputs, output_shapes=[x.shape] * 2, **_launch(x, eps, add=True))
        return total, out
    total = x + (y + y_bias)
    return total, mx.fast.layer_norm(total, weight, bias, eps)


def _on_cuda(x: mx.array) -> bool:
    channels = x.shape[-1]
    return mx.default_device() != mx.cpu and mx.cuda.is_available() and channels % 4 == 0 and channels <= _MOST_CHANNELS


def _launch(x: mx.array, eps: float, *, add: bool) -> dict[str, Any]:
    rows, warps = x.size // x.shape[-1], _THREADS // 32
    return {
        "template": [
            ("T", x.dtype),
            ("ADD", add),
            ("EPS", struct.unpack("<i", struct.pack("<f", eps))[0]),
            ("KEPT", -(-x.shape[-1] // 128)),
        ],
        "grid": (-(-rows // warps) * _THREADS, 1, 1),
        "threadgroup": (_THREADS, 1, 1),
        "output_dtypes": [x.dtype] * (2 if add else 1),
    }


@cache
def _kernel(add: bool) -> Any:
    if add:
        inputs, outputs, source = ["x", "y", "y_bias", "weight", "bias"], ["total_out", "out"], _SOURCE
    else:
        start, end = _SOURCE.index("      if (ADD)"), _SOURCE.index("      for (int i = 0; i < 4; i++) sum +=")
        inputs, outputs, source = ["x", "weight", "bias"], ["out"], _SOURCE[:start] + _SOURCE[end:]
    return mx.fast.cuda_kernel(name="mlxdiff_layer_norm", input_names=inputs, output_names=outputs, source=source)
