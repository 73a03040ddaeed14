// Group normalization of x (images, rows, channels) + shift (1 or images, channels). group_norm_metal.py has the twins
// of `sum_runs` and `normalize`.
//
// A group of a small map fits the registers of one block, which reads it once (`whole`). A larger one takes two
// kernels: sums over runs of rows, then the map. Sums are added in an order that the shape alone decides, so that a
// picture has the same bits each time.
#include "number.cuh"

constexpr int BATCH = 4;  // loads in flight before the first is used

// The sum over a block of one number a thread, for all threads. `scratch`: 33 floats.
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

// A block is one group of one image: blockIdx = (group, image). A thread keeps the same two channels of every
// `lanes`-th row. `shifts`: rows of `shift`, none if 0.
template <typename T, int KEPT>
__device__ void whole(const T* x, const T* weight, const T* bias, const T* shift, T* out, int rows, int channels,
                      int shifts, int with_silu, float eps) {
  const int size = channels / gridDim.x, columns = size / 2, lanes = blockDim.x / columns;
  const int channel = blockIdx.x * size + threadIdx.x % columns * 2, lane = threadIdx.x / columns;
  const size_t picture = size_t(blockIdx.y) * rows * channels + channel;
  const bool active = lane < lanes;
  float shifted[2] = {0.0f, 0.0f};
  if (shifts > 0 && active) {
    const int row = shifts > 1 ? blockIdx.y * channels : 0;
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
  const float scale = rsqrtf(block_sum(square, scratch) / count + eps);
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
        result.at[i] = T(with_silu ? silu(y) : y);
      }
      *reinterpret_cast<Pack<T, 2>*>(out + picture + size_t(row) * channels) = result;
    }
  }
}

// A block is a run of rows of a slab (`slab` channels, whole groups) of one image:
// blockIdx = (run * slabs + slab, image). A thread adds up the same WIDE channels of every `lanes`-th row: what they
// and their squares differ from a value of the group, so that a large mean costs no digits.
// sums: (images, runs, groups, 2).
template <typename T>
__device__ void sum_runs(const T* x, const T* shift, float* sums, int rows, int channels, int size, int slab,
                         int shifts) {
  constexpr int wide = WIDE<T>;
  const int slabs = channels / slab, columns = slab / wide, lanes = blockDim.x / columns, runs = gridDim.x / slabs;
  const int start = blockIdx.x % slabs * slab, column = threadIdx.x % columns * wide, lane = threadIdx.x / columns;
  const int channel = start + column, index = blockIdx.x / slabs, run = (rows + runs - 1) / runs;
  const int last = min(rows, (index + 1) * run);
  const T* picture = x + size_t(blockIdx.y) * rows * channels;
  const int shift_row = shifts > 1 ? blockIdx.y * channels : 0;
  float pivot[wide], sum[wide] = {}, square[wide] = {};
  for (int i = 0, leader = channel / size * size; i < wide; i++) {
    if (channel + i == leader + size) leader += size;
    pivot[i] = float(picture[leader]);
    if (shifts > 0) pivot[i] += float(shift[shift_row + leader]) - float(shift[shift_row + channel + i]);
  }
  for (int row = index * run + lane; row < last; row += BATCH * lanes) {
    Pack<T, wide> some[BATCH];
#pragma unroll
    for (int j = 0; j < BATCH; j++) {
      if (row + j * lanes < last) {
        some[j] = *reinterpret_cast<const Pack<T, wide>*>(picture + size_t(row + j * lanes) * channels + channel);
      }
    }
#pragma unroll
    for (int j = 0; j < BATCH; j++) {
      if (row + j * lanes < last) {
        for (int i = 0; i < wide; i++) {
          const float off = float(some[j].at[i]) - pivot[i];
          sum[i] += off;
          square[i] += off * off;
        }
      }
    }
  }
  __shared__ float table[2][4096];
  for (int i = 0; i < wide; i++) {
    table[0][lane * slab + column + i] = sum[i];
    table[1][lane * slab + column + i] = square[i];
  }
  __syncthreads();
  for (int k = threadIdx.x; k < 2 * slab; k += blockDim.x) {
    float* totals = table[k / slab] + k % slab;
    float total = totals[0];
#pragma unroll 4
    for (int l = 1; l < lanes; l++) total += totals[l * slab];
    totals[0] = total;
  }
  __syncthreads();
  for (int k = threadIdx.x; k < 2 * slab / size; k += blockDim.x) {
    const float* totals = table[k % 2] + k / 2 * size;
    float total = 0.0f;
#pragma unroll 4
    for (int c = 0; c < size; c++) total += totals[c];
    sums[((size_t(blockIdx.y) * runs + index) * (channels / size) + start / size) * 2 + k] = total;
  }
}

// blockIdx as above, with as many runs as `sums` has. A slab has at most 256 groups. Images, runs and rows go
// backwards: it begins where `sum_runs` ended, which the L2 cache may still hold.
template <typename T>
__device__ void normalize(const T* x, const T* weight, const T* bias, const T* shift, const float* sums, T* out,
                          int rows, int channels, int size, int slab, int shifts, int with_silu, float eps) {
  constexpr int wide = WIDE<T>;
  const int block = gridDim.x - 1 - blockIdx.x, image = gridDim.y - 1 - blockIdx.y;
  const int slabs = channels / slab, columns = slab / wide, lanes = blockDim.x / columns, runs = gridDim.x / slabs;
  const int start = block % slabs * slab, column = threadIdx.x % columns * wide, lane = threadIdx.x / columns;
  const int channel = start + column, index = block / slabs, run = (rows + runs - 1) / runs;
  const int first = index * run, last = min(rows, first + run);
  const size_t picture = size_t(image) * rows * channels;
  // `parts` threads share the sums of a group, and the first of them adds up what they have.
  __shared__ float table[1024];
  const int statistics = 2 * slab / size, parts = max(1, min(16, int(blockDim.x) / statistics));
  for (int k = threadIdx.x; k < statistics * parts; k += blockDim.x) {
    const float* from = sums + (size_t(image) * runs * (channels / size) + start / size) * 2 + k % statistics;
    float total = 0.0f;
#pragma unroll 4
    for (int r = k / statistics; r < runs; r += parts) total += from[r * (channels / size) * 2];
    table[k] = total;
  }
  __syncthreads();
  for (int k = threadIdx.x; k < statistics; k += blockDim.x) {
    float total = table[k];
    for (int part = 1; part < parts; part++) total += table[part * statistics + k];
    table[k] = total / (float(rows) * size);
  }
  __syncthreads();
  const int shift_row = shifts > 1 ? image * channels : 0;
  float centre[wide], gain[wide], offset[wide];
  for (int i = 0, group = column / size; i < wide; i++) {
    if (column + i == (group + 1) * size) group++;
    const int c = channel + i, leader = start + group * size;
    const float mean = table[2 * group], variance = fmaxf(table[2 * group + 1] - mean * mean, 0.0f);
    centre[i] = float(x[picture + leader]) + mean;
    if (shifts > 0) centre[i] += float(shift[shift_row + leader]) - float(shift[shift_row + c]);
    gain[i] = rsqrtf(variance + eps) * float(weight[c]);
    offset[i] = float(bias[c]);
  }
  const T* from = x + picture + channel;
  T* to = out + picture + channel;
  for (int row = last - 1 - lane; row >= first; row -= BATCH * lanes) {
    Pack<T, wide> some[BATCH];
#pragma unroll
    for (int j = 0; j < BATCH; j++) {
      if (row - j * lanes >= first) some[j] = read_last(from + size_t(row - j * lanes) * channels);
    }
#pragma unroll
    for (int j = 0; j < BATCH; j++) {
      if (row - j * lanes >= first) {
        for (int i = 0; i < wide; i++) {
          const float y = (float(some[j].at[i]) - centre[i]) * gain[i] + offset[i];
          some[j].at[i] = T(with_silu ? silu(y) : y);
        }
        *reinterpret_cast<Pack<T, wide>*>(to + size_t(row - j * lanes) * channels) = some[j];
      }
    }
  }
}

#define WHOLE(NAME, T, KEPT)                                                                                       \
  extern "C" __global__ void __launch_bounds__(256)                                                                \
      group_norm_whole_##KEPT##_##NAME(const T* x, const T* weight, const T* bias, const T* shift, T* out,         \
                                       int rows, int channels, int shifts, int with_silu, int eps) {               \
    whole<T, KEPT>(x, weight, bias, shift, out, rows, channels, shifts, with_silu, __int_as_float(eps));           \
  }
#define ENTRY(NAME, T)                                                                                             \
  WHOLE(NAME, T, 4)                                                                                                \
  WHOLE(NAME, T, 12)                                                                                               \
  WHOLE(NAME, T, 24)                                                                                               \
  WHOLE(NAME, T, 48)                                                                                               \
  extern "C" __global__ void __launch_bounds__(1024, 1)                                                            \
      group_norm_sums_##NAME(const T* x, const T* shift, float* sums, int rows, int channels, int size, int slab,  \
                             int shifts) {                                                                         \
    sum_runs<T>(x, shift, sums, rows, channels, size, slab, shifts);                                               \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(1024, 1)                                                            \
      group_norm_normalize_##NAME(const T* x, const T* weight, const T* bias, const T* shift, const float* sums,   \
                                  T* out, int rows, int channels, int size, int slab, int shifts,                  \
                                  int with_silu, int eps) {                                                        \
    normalize<T>(x, weight, bias, shift, sums, out, rows, channels, size, slab, shifts, with_silu,                 \
        __int_as_float(eps));                                                                                      \
  }

FOR_EACH_TYPE(ENTRY)
