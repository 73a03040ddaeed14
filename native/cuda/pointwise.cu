// What is computed number by number: a thread makes WIDE of them.
#include "number.cuh"

// x (rows, 2 width) -> out (rows, width): the first half times the exact GELU of the second.
template <typename T>
__device__ void geglu(const T* x, T* out, unsigned rows, unsigned width) {
  constexpr int wide = WIDE<T>;
  const unsigned columns = width / wide, index = blockIdx.x * blockDim.x + threadIdx.x, row = index / columns;
  if (row >= rows) return;
  const unsigned column = index % columns * wide;
  const T* from = x + size_t(row) * 2 * width + column;
  auto value = *reinterpret_cast<const Pack<T, wide>*>(from);
  const auto gate = *reinterpret_cast<const Pack<T, wide>*>(from + width);
  for (int i = 0; i < wide; i++) {
    const float g = float(gate.at[i]);
    value.at[i] = T(float(value.at[i]) * g * (0.5f + 0.5f * erff(g * 0.70710678f)));
  }
  *reinterpret_cast<Pack<T, wide>*>(out + size_t(row) * width + column) = value;
}

// x + (y + bias): x and y (rows, width), bias (width,).
template <typename T>
__device__ void add_biased(const T* x, const T* y, const T* bias, T* out, unsigned rows, unsigned width) {
  constexpr int wide = WIDE<T>;
  const unsigned columns = width / wide, index = blockIdx.x * blockDim.x + threadIdx.x, row = index / columns;
  if (row >= rows) return;
  const unsigned column = index % columns * wide;
  const size_t at = size_t(row) * width + column;
  auto value = read_last(x + at);
  const auto joins = read_last(y + at);
  const auto more = *reinterpret_cast<const Pack<T, wide>*>(bias + column);
  for (int i = 0; i < wide; i++) {
    value.at[i] = T(float(value.at[i]) + (float(joins.at[i]) + float(more.at[i])));
  }
  *reinterpret_cast<Pack<T, wide>*>(out + at) = value;
}

#define ENTRY(NAME, T)                                                                                             \
  extern "C" __global__ void geglu_##NAME(const T* x, T* out, int rows, int width) {                               \
    geglu<T>(x, out, rows, width);                                                                                 \
  }                                                                                                                \
  extern "C" __global__ void add_biased_##NAME(const T* x, const T* y, const T* bias, T* out, int rows,            \
                                               int width) {                                                        \
    add_biased<T>(x, y, bias, out, rows, width);                                                                   \
  }

FOR_EACH_TYPE(ENTRY)
