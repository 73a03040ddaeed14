// Two feature maps side by side: x (rows, x_width) and skip (rows, skip_width) -> out (rows, x_width + skip_width).
#include "number.cuh"

// Widths are multiples of WIDE.
template <typename T>
__device__ void join(const T* x, const T* skip, T* out, unsigned rows, unsigned x_width, unsigned skip_width) {
  const unsigned columns = (x_width + skip_width) / WIDE<T>;
  const auto read = [&](unsigned index) {
    const unsigned row = index / columns, column = index % columns * WIDE<T>;
    return column < x_width ? x + size_t(row) * x_width + column : skip + size_t(row) * skip_width + (column - x_width);
  };
  move(out, rows * columns, read, [&](Pack<T, WIDE<T>> piece, unsigned) { return piece; });
}

#define ENTRY(NAME, T)                                                                                             \
  extern "C" __global__ void join_##NAME(const T* x, const T* skip, T* out, int rows, int x_width,                 \
                                         int skip_width) {                                                         \
    join<T>(x, skip, out, rows, x_width, skip_width);                                                              \
  }

FOR_EACH_TYPE(ENTRY)
