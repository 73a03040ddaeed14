// Layer normalization of x (rows, channels), or of x + shift (channels,).
#include "number.cuh"

// A warp is one row, which it keeps in registers, four channels at a time. `channels` is a multiple of 4.
template <typename T, int KEPT, bool SHIFTED>
__device__ void layer_norm(const T* x, const T* weight, const T* bias, const T* shift, T* out, unsigned rows,
                           unsigned channels, float eps) {
  const unsigned lane = threadIdx.x % 32, row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  const size_t at = size_t(row) * channels;
  float kept[KEPT][4], sum = 0.0f, square = 0.0f;
#pragma unroll
  for (int k = 0; k < KEPT; k++) {
    const unsigned channel = (k * 32 + lane) * 4;
    if (channel < channels) {
      const auto some = *reinterpret_cast<const Pack<T, 4>*>(x + at + channel);
      for (int i = 0; i < 4; i++) kept[k][i] = float(some.at[i]);
      if constexpr (SHIFTED) {
        const auto more = *reinterpret_cast<const Pack<T, 4>*>(shift + channel);
        for (int i = 0; i < 4; i++) kept[k][i] += float(more.at[i]);
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
  const float scale = rsqrtf(square / channels + eps);
#pragma unroll
  for (int k = 0; k < KEPT; k++) {
    const unsigned channel = (k * 32 + lane) * 4;
    if (channel < channels) {
      const auto gain = *reinterpret_cast<const Pack<T, 4>*>(weight + channel);
      const auto offset = *reinterpret_cast<const Pack<T, 4>*>(bias + channel);
      Pack<T, 4> result;
      for (int i = 0; i < 4; i++) {
        result.at[i] = T((kept[k][i] - mean) * scale * float(gain.at[i]) + float(offset.at[i]));
      }
      *reinterpret_cast<Pack<T, 4>*>(out + at + channel) = result;
    }
  }
}

#define BOTH(NAME, T, KEPT)                                                                                        \
  extern "C" __global__ void __launch_bounds__(128)                                                                \
      layer_norm_##KEPT##_##NAME(const T* x, const T* weight, const T* bias, T* out, int rows, int channels,       \
                                 int eps) {                                                                        \
    layer_norm<T, KEPT, false>(x, weight, bias, nullptr, out, rows, channels, __int_as_float(eps));                \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(128)                                                                \
      shifted_layer_norm_##KEPT##_##NAME(const T* x, const T* weight, const T* bias, const T* shift, T* out,       \
                                         int rows, int channels, int eps) {                                        \
    layer_norm<T, KEPT, true>(x, weight, bias, shift, out, rows, channels, __int_as_float(eps));                   \
  }
#define ENTRY(NAME, T)                                                                                             \
  BOTH(NAME, T, 3)                                                                                                 \
  BOTH(NAME, T, 5)                                                                                                 \
  BOTH(NAME, T, 10)                                                                                                \
  BOTH(NAME, T, 16)

FOR_EACH_TYPE(ENTRY)
