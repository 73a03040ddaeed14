// Two feature maps side by side: x (rows, x_width) and skip (rows, skip_width) -> out (rows, x_width + skip_width).
#include "number.cuh"

// A thread moves LOADS pieces of WIDE numbers, all read before the first is written. Widths are multiples of WIDE.
template <typename T>
__device__ void join(const T* x, const T* skip, T* out, unsigned rows, unsigned x_width, unsigned skip_width) {
  constexpr unsigned wide = WIDE<T>, LOADS = 4;
  const unsigned columns = (x_width + skip_width) / wide, pieces = rows * columns;
  const unsigned first = blockIdx.x * blockDim.x * LOADS + threadIdx.x;
  Pack<T, wide> some[LOADS];
#pragma unroll
  for (unsigned k = 0; k < LOADS; k++) {
    const unsigned index = first + k * blockDim.x;
    if (index < pieces) {
      const unsigned row = index / columns, column = index % columns * wide;
      const T* from = column < x_width ? x + size_t(row) * x_width + column
                                       : skip + size_t(row) * skip_width + (column - x_width);
      some[k] = *reinterpret_cast<const Pack<T, wide>*>(from);
    }
  }
#pragma unroll
  for (unsigned k = 0; k < LOADS; k++) {
    const unsigned index = first + k * blockDim.x;
    if (index < pieces) *reinterpret_cast<Pack<T, wide>*>(out + size_t(index) * wide) = some[k];
  }
}

#define ENTRY(NAME, T)                                                                                             \
  extern "C" __global__ void join_##NAME(const T* x, const T* skip, T* out, int rows, int x_width,                 \
                                         int skip_width) {                                                         \
    join<T>(x, skip, out, rows, x_width, skip_width);                                                              \
  }

FOR_EACH_TYPE(ENTRY)
