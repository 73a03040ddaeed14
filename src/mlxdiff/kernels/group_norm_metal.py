"""Group normalization on Apple's GPUs, in two kernels: sums over runs of rows, then the map.

The twins of `sum_runs` and `normalize` in native/cuda/group_norm.cu, line by line; what is said there holds here.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import mlx.core as mx

_PLACE = """
  const uint thread_index = thread_position_in_threadgroup.x, threads = threads_per_threadgroup.x;
  const uint image = threadgroup_position_in_grid.y, block = threadgroup_position_in_grid.x;
  const uint blocks = threadgroups_per_grid.x;
  const uint rows = x_shape[1] * x_shape[2], channels = x_shape[3], size = channels / GROUPS;
  const uint columns = channels / 4, lanes = threads / columns;
  const uint channel = thread_index % columns * 4, lane = thread_index / columns;
  const uint run = (rows + blocks - 1) / blocks;
  const uint first = block * run, last = min(rows, first + run);
  const device T* picture = x + size_t(image) * rows * channels;
  const uint shift_row = SHIFT && shift_shape[0] > 1 ? image * channels : 0;
"""

_SUMS = (
    _PLACE
    + """
  float pivot[4], sum[4] = {0, 0, 0, 0}, square[4] = {0, 0, 0, 0};
  for (uint i = 0; i < 4; i++) {
    const uint leader = (channel + i) / size * size;
    pivot[i] = float(picture[leader]);
    if (SHIFT) pivot[i] += float(shift[shift_row + leader]) - float(shift[shift_row + channel + i]);
  }
  for (uint row = first + lane; row < last; row += lanes) {
    const auto four = *reinterpret_cast<const device vec<T, 4>*>(picture + size_t(row) * channels + channel);
    for (uint i = 0; i < 4; i++) {
      const float off = float(four[i]) - pivot[i];
      sum[i] += off;
      square[i] += off * off;
    }
  }
  threadgroup float table[4096];
  for (uint pass = 0; pass < 2; pass++) {
    for (uint i = 0; i < 4; i++) table[lane * channels + channel + i] = pass == 0 ? sum[i] : square[i];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint c = thread_index; c < channels; c += threads) {
      float total = table[c];
      for (uint l = 1; l < lanes; l++) total += table[l * channels + c];
      table[c] = total;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint g = thread_index; g < GROUPS; g += threads) {
      float total = 0.0f;
      for (uint c = 0; c < size; c++) total += table[g * size + c];
      sums[((image * blocks + block) * 2 + pass) * GROUPS + g] = total;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
"""
)

_NORMALIZE = (
    _PLACE
    + """
  const uint runs = sums_shape[1];
  threadgroup float table[2 * GROUPS];
  for (uint k = thread_index; k < 2 * GROUPS; k += threads) {
    float total = 0.0f;
    for (uint r = 0; r < runs; r++) total += sums[(image * runs + r) * 2 * GROUPS + k];
    table[k] = total / (float(rows) * float(size));
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float centre[4], gain[4], offset[4];
  for (uint i = 0; i < 4; i++) {
    const uint c = channel + i, group = c / size, leader = group * size;
    const float mean = table[group], variance = max(table[GROUPS + group] - mean * mean, 0.0f);
    centre[i] = float(picture[leader]) + mean;
    if (SHIFT) centre[i] += float(shift[shift_row + leader]) - float(shift[shift_row + c]);
    gain[i] = rsqrt(variance + as_type<float>(EPS)) * float(weight[c]);
    offset[i] = float(bias[c]);
  }
  for (uint row = first + lane; row < last; row += lanes) {
    const size_t at = (size_t(image) * rows + row) * channels + channel;
    auto four = *reinterpret_cast<const device vec<T, 4>*>(x + at);
    for (uint i = 0; i < 4; i++) {
      const float y = (float(four[i]) - centre[i]) * gain[i] + offset[i];
      four[i] = T(SILU ? y / (1.0f + metal::exp(-y)) : y);
    }
    *reinterpret_cast<device vec<T, 4>*>(out + at) = four;
  }
"""
)

_MOST_CHANNELS = 4096
_BLOCKS = 512  # a few for each core of a large GPU
_MOST_RUNS = 64
_ROWS_A_THREAD = 8


def takes(x: mx.array, groups: int) -> bool:
    """Whether the kernels apply to x (B, h, w, C)."""
    channels = x.shape[-1]
    fits = channels % 4 == 0 and channels % groups == 0 and channels <= _MOST_CHANNELS
    return x.ndim == 4 and fits and mx.default_device() != mx.cpu and mx.metal.is_available()


def run(
    x: mx.array, weight: mx.array, bias: mx.array, groups: int, eps: float, shift: mx.array | None, *, silu: bool
) -> mx.array:
    """Group normalization of x (B, h, w, C) + shift (B or 1, C), and SiLU in the same pass if `silu`."""
    constants = [
        ("T", x.dtype),
        ("GROUPS", groups),
        ("EPS", struct.unpack("<i", struct.pack("<f", eps))[0]),
        ("SHIFT", shift is not None),
        ("SILU", silu),
    ]
    shift = weight if shift is None else shift
    batch, height, width, channels = x.shape
    columns = channels // 4
    threads = columns * max(1, 256 // columns)
    most = max(1, min(_BLOCKS // batch, height * width * columns // (_ROWS_A_THREAD * threads)))
    runs = min(_MOST_RUNS, most)
    (sums,) = _kernel("sums")(
        inputs=[x, shift],
        template=constants,
        grid=(threads * runs, batch, 1),
        threadgroup=(threads, 1, 1),
        output_shapes=[(batch, runs, 2, groups)],
        output_dtypes=[mx.float32],
    )
    (out,) = _kernel("normalize")(
        inputs=[x, weight, bias, shift, sums],
        template=constants,
        grid=(threads * most, batch, 1),
        threadgroup=(threads, 1, 1),
        output_shapes=[x.shape],
        output_dtypes=[x.dtype],
    )
    return out


_KERNELS = {
    "sums": (["x", "shift"], "sums", _SUMS),
    "normalize": (["x", "weight", "bias", "shift", "sums"], "out", _NORMALIZE),
}


@cache
def _kernel(name: str) -> Any:
    """The kernel of that name, which Metal compiles when it is first run."""
    inputs, output, source = _KERNELS[name]
    return mx.fast.metal_kernel(
        name=f"mlxdiff_group_norm_{name}", input_names=inputs, output_names=[output], source=source
    )
