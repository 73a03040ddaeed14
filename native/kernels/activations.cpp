// What is computed element by element: activations and sums.
#include "activations.h"

#include "../kernels.h"

namespace mlxdiff::MLXDIFF_ISA {
namespace {

template <class F>
inline void each(const Real* x, Real* y, int64_t n, F f) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(y + i, f(load(x + i)));
  if (i < n) store_part(y + i, f(load_part(x + i, n - i)), n - i);
}

}  // namespace

void silu(const Real* x, Real* y, int64_t n) {
  each(x, y, n, [](Vec v) { return silu(v); });
}

void gelu(const Real* x, Real* y, int64_t n) {
  each(x, y, n, [](Vec v) { return gelu(v); });
}

void quick_gelu(const Real* x, Real* y, int64_t n) {
  each(x, y, n, [](Vec v) { return quick_gelu(v); });
}

void geglu(const Real* x, Real* y, int64_t rows, int64_t width) {
  for (int64_t row = 0; row < rows; ++row, x += 2 * width, y += width) {
    int64_t i = 0;
    for (; i + kWidth <= width; i += kWidth) store(y + i, load(x + i) * gelu(load(x + width + i)));
    if (i < width) {
      store_part(y + i, load_part(x + i, width - i) * gelu(load_part(x + width + i, width - i)), width - i);
    }
  }
}

void add_biased(const Real* a, const Real* b, const Real* bias, Real* y, int64_t rows, int64_t width) {
  for (int64_t row = 0; row < rows; ++row, a += width, b += width, y += width) {
    int64_t i = 0;
    for (; i + kWidth <= width; i += kWidth) store(y + i, load(a + i) + (load(b + i) + load(bias + i)));
    if (const int64_t n = width - i; n > 0) {
      store_part(y + i, load_part(a + i, n) + (load_part(b + i, n) + load_part(bias + i, n)), n);
    }
  }
}

}  // namespace mlxdiff::MLXDIFF_ISA
