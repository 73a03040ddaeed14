"""Group normalization on NVIDIA GPUs. group_norm_metal.py has the twins of `_SUMS` and `_NORMALIZE`.

A group of a small feature map fits the registers of one block, which reads it once (`_WHOLE`). A larger one takes two
kernels: sums over runs of rows, then the map. Sums are added in an order that the shape alone decides, so that a
picture has the same bits each time.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import mlx.core as mx

_HEADER = """
template <typename T, int N> struct alignas(N * sizeof(T)) Pack { T at[N]; };

// The sum over a block of one number a thread; everyone gets it. `scratch`: 33 floats.
__device__ inline float block_sum(float value, float* scratch) {
  for (int i = 16; i > 0; i /= 2) value += __shfl_xor_sync(0xffffffffu, value, i);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  if (warp == 0) {
    value = lane < warps ? scratch[lane] : 0.0f;
    for (int i = 16; i > 0; i /= 2) value += __shfl_xor_sync(0xffffffffu, value, i);
    if (lane == 0) scratch[32] = value;
  }
  __syncthreads();
  value = scratch[32];
  __syncthreads();
  return value;
}
"""

# A block is one group of one image. A thread keeps the same two channels of every `lanes`-th row in registers.
_WHOLE = """
  const int rows = x_shape[1] * x_shape[2], channels = x_shape[3], size = channels / GROUPS;
  const int columns = size / 2, lanes = THREADS / columns;
  const int channel = blockIdx.x * size + threadIdx.x % columns * 2, lane = threadIdx.x / columns;
  const size_t picture = size_t(blockIdx.y) * rows * channels + channel;
  const bool active = lane < lanes;
  float shifted[2] = {0.0f, 0.0f};
  if (SHIFT && active) {
    const int row = shift_shape[0] > 1 ? blockIdx.y * channels : 0;
    for (int i = 0; i < 2; i++) shifted[i] = float(shift[row + channel + i]);
  }
  Pack<T, 2> kept[KEPT];
  float sum = 0.0f;
  #pragma unroll
  for (int k = 0; k < KEPT; k++) {
    const int row = lane + k * lanes;
    if (active && row < rows) {
      kept[k] = *reinterpret_cast<const Pack<T, 2>*>(x + picture + size_t(row) * channels);
      sum += (float(kept[k].at[0]) + shifted[0]) + (float(kept[k].at[1]) + shifted[1]);
    }
  }
  __shared__ float scratch[33];
  const float count = float(rows) * size, mean = block_sum(sum, scratch) / count;
  shifted[0] -= mean;
  shifted[1] -= mean;
  float square = 0.0f;
  #pragma unroll
  for (int k = 0; k < KEPT; k++) {
    if (active && lane + k * lanes < rows) {
      for (int i = 0; i < 2; i++) {
        const float centred = float(kept[k].at[i]) + shifted[i];
        square += centred * centred;
      }
    }
  }
  const float scale = rsqrtf(block_sum(square, scratch) / count + __int_as_float(EPS));
  if (!active) return;
  float gain[2], offset[2];
  for (int i = 0; i < 2; i++) {
    gain[i] = scale * float(weight[channel + i]);
    offset[i] = float(bias[channel + i]);
  }
  #pragma unroll
  for (int k = 0; k < KEPT; k++) {
    const int row = lane + k * lanes;
    if (row < rows) {
      Pack<T, 2> result;
      for (int i = 0; i < 2; i++) {
        const float y = (float(kept[k].at[i]) + shifted[i]) * gain[i] + offset[i];
        result.at[i] = T(SILU ? y / (1.0f + __expf(-y)) : y);
      }
      *reinterpret_cast<Pack<T, 2>*>(out + picture + size_t(row) * channels) = result;
    }
  }
"""

# A block is a run of rows of one image. A thread adds up the same WIDE channels of every `lanes`-th row: what they and
# their squares differ from a value of the group, so that a large mean costs no digits.
_SUMS = """
  const int rows = x_shape[1] * x_shape[2], channels = x_shape[3], size = channels / GROUPS;
  const int columns = channels / WIDE, lanes = blockDim.x / columns;
  const int channel = threadIdx.x % columns * WIDE, lane = threadIdx.x / columns;
  const int run = (rows + gridDim.x - 1) / gridDim.x;
  const int first = blockIdx.x * run, last = min(rows, first + run);
  const T* picture = x + size_t(blockIdx.y) * rows * channels;
  const int shift_row = SHIFT && shift_shape[0] > 1 ? blockIdx.y * channels : 0;
  float pivot[WIDE], sum[WIDE] = {}, square[WIDE] = {};
  for (int i = 0; i < WIDE; i++) {
    const int leader = (channel + i) / size * size;
    pivot[i] = float(picture[leader]);
    if (SHIFT) pivot[i] += float(shift[shift_row + leader]) - float(shift[shift_row + channel + i]);
  }
  #pragma unroll 4
  for (int row = first + lane; row < last; row += lanes) {
    const auto some = *reinterpret_cast<const Pack<T, WIDE>*>(picture + size_t(row) * channels + channel);
    for (int i = 0; i < WIDE; i++) {
      const float off = float(some.at[i]) - pivot[i];
      sum[i] += off;
      square[i] += off * off;
    }
  }
  __shared__ float table[4096];
  for (int pass = 0; pass < 2; pass++) {
    for (int i = 0; i < WIDE; i++) table[lane * channels + channel + i] = pass == 0 ? sum[i] : square[i];
    __syncthreads();
    for (int c = threadIdx.x; c < channels; c += blockDim.x) {
      float total = table[c];
      for (int l = 1; l < lanes; l++) total += table[l * channels + c];
      table[c] = total;
    }
    __syncthreads();
    for (int g = threadIdx.x; g < GROUPS; g += blockDim.x) {
      float total = 0.0f;
      for (int c = 0; c < size; c++) total += table[g * size + c];
      sums[((blockIdx.y * gridDim.x + blockIdx.x) * 2 + pass) * GROUPS + g] = total;
    }
    __syncthreads();
  }
"""

_NORMALIZE = """
  const int rows = x_shape[1] * x_shape[2], channels = x_shape[3], size = channels / GROUPS, runs = sums_shape[1];
  const int columns = channels / WIDE, lanes = blockDim.x / columns;
  const int channel = threadIdx.x % columns * WIDE, lane = threadIdx.x / columns;
  const int run = (rows + gridDim.x - 1) / gridDim.x;
  const int first = blockIdx.x * run, last = min(rows, first + run);
  const size_t picture = size_t(blockIdx.y) * rows * channels;
  __shared__ float table[2 * GROUPS];
  for (int k = threadIdx.x; k < 2 * GROUPS; k += blockDim.x) {
    float total = 0.0f;
    for (int r = 0; r < runs; r++) total += sums[(blockIdx.y * runs + r) * 2 * GROUPS + k];
    table[k] = total / (float(rows) * size);
  }
  __syncthreads();
  const int shift_row = SHIFT && shift_shape[0] > 1 ? blockIdx.y * channels : 0;
  float centre[WIDE], gain[WIDE], offset[WIDE];
  for (int i = 0; i < WIDE; i++) {
    const int c = channel + i, group = c / size, leader = group * size;
    const float mean = table[group], variance = fmaxf(table[GROUPS + group] - mean * mean, 0.0f);
    centre[i] = float(x[picture + leader]) + mean;
    if (SHIFT) centre[i] += float(shift[shift_row + leader]) - float(shift[shift_row + c]);
    gain[i] = rsqrtf(variance + __int_as_float(EPS)) * float(weight[c]);
    offset[i] = float(bias[c]);
  }
  #pragma unroll 4
  for (int row = first + lane; row < last; row += lanes) {
    const size_t at = picture + size_t(row) * channels + channel;
    auto some = *reinterpret_cast<const Pack<T, WIDE>*>(x + at);
    for (int i = 0; i < WIDE; i++) {
      const float y = (float(some.at[i]) - centre[i]) * gain[i] + offset[i];
      some.at[i] = T(SILU ? y / (1.0f + __expf(-y)) : y);
    }
    *reinterpret_cast<Pack<T, WIDE>*>(out + at) = some;
  }
"""

_THREADS = 256  # of a block that keeps its group: few enough for each to have all the registers it can name
_KEPT = (4, 12, 24, 48)  # pairs of channels in a thread's registers; each is a kernel of its own
_MOST_CHANNELS = 4096
_BLOCKS = 1024  # a few for each multiprocessor of a large GPU
_MOST_RUNS = 64
_ROWS_A_THREAD = 4


def takes(x: mx.array, groups: int) -> bool:
    """Whether the kernels apply to x (B, h, w, C)."""
    channels = x.shape[-1]
    return x.ndim == 4 and channels % 4 == 0 and channels <= _MOST_CHANNELS and channels % groups == 0


def group_norm(
    x: mx.array, weight: mx.array, bias: mx.array, groups: int, eps: float, shift: mx.array | None
) -> mx.array:
    """Group normalization of x (B, h, w, C) + shift (B or 1, C)."""
    return _run(x, weight, bias, groups, eps, shift, silu=False)


def group_norm_silu(
    x: mx.array, weight: mx.array, bias: mx.array, groups: int, eps: float, shift: mx.array | None
) -> mx.array:
    """SiLU of `group_norm`."""
    return _run(x, weight, bias, groups, eps, shift, silu=True)


def _run(
    x: mx.array, weight: mx.array, bias: mx.array, groups: int, eps: float, shift: mx.array | None, *, silu: bool
) -> mx.array:
    constants = [
        ("T", x.dtype),
        ("GROUPS", groups),
        ("EPS", struct.unpack("<i", struct.pack("<f", eps))[0]),
        ("SHIFT", shift is not None),
        ("SILU", silu),
    ]
    shift = weight if shift is None else shift  # a kernel's inputs are fixed; without SHIFT it does not look at it
    size = x.shape[-1] // groups
    kept = -(-x.shape[1] * x.shape[2] // (_THREADS // max(1, size // 2)))
    if size % 2 == 0 and kept <= _KEPT[-1]:
        return whole(x, weight, bias, shift, constants, groups, kept)
    return in_runs(x, weight, bias, shift, constants, groups)


def whole(
    x: mx.array, weight: mx.array, bias: mx.array, shift: mx.array, constants: list, groups: int, kept: int
) -> mx.array:
    """One kernel, for groups of at most `kept` pairs of channels a thread."""
    (out,) = _kernel("whole")(
        inputs=[x, weight, bias, shift],
        template=[*constants, ("THREADS", _THREADS), ("KEPT", next(k for k in _KEPT if k >= kept))],
        grid=(_THREADS * groups, x.shape[0], 1),
        threadgroup=(_THREADS, 1, 1),
        output_shapes=[x.shape],
        output_dtypes=[x.dtype],
    )
    return out


def in_runs(x: mx.array, weight: mx.array, bias: mx.array, shift: mx.array, constants: list, groups: int) -> mx.array:
    """Two kernels, for maps of any size."""
    batch, height, width, channels = x.shape
    wide = 8 if channels % 8 == 0 and x.itemsize == 2 else 4  # 16 bytes
    columns = channels // wide
    threads = columns * max(1, 256 // columns)
    most = max(1, min(_BLOCKS // batch, height * width * columns // (_ROWS_A_THREAD * threads)))
    runs = min(_MOST_RUNS, most)
    constants = [*constants, ("WIDE", wide)]
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
    "whole": (["x", "weight", "bias", "shift"], "out", _WHOLE),
    "sums": (["x", "shift"], "sums", _SUMS),
    "normalize": (["x", "weight", "bias", "shift", "sums"], "out", _NORMALIZE),
}


@cache
def _kernel(name: str) -> Any:
    """The kernel of that name, which CUDA compiles when it is first run."""
    inputs, output, source = _KERNELS[name]
    return mx.fast.cuda_kernel(
        name=f"mlxdiff_group_norm_{name}", input_names=inputs, output_names=[output], source=source, header=_HEADER
    )
