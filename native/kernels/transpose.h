// Rows into columns, by exchanges of vectors.
#pragma once

#include <utility>

#include "simd.h"

namespace mlxdiff::MLXDIFF_ISA {

// Exchanges the elements of `a` that have the bit kStep in their number for those of `b` that lack it.
template <int kStep, int... kAll>
static inline void exchange(Vec& a, Vec& b, std::integer_sequence<int, kAll...>) {
  const Vec low = __builtin_shufflevector(a, b, ((kAll & kStep) != 0 ? kWidth + kAll - kStep : kAll)...);
  b = __builtin_shufflevector(a, b, ((kAll & kStep) != 0 ? kWidth + kAll : kAll + kStep)...);
  a = low;
}

// The kWidth vectors at v become their columns.
template <int kStep = 1>
static inline void transpose(Vec* v) {
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; ++i) {
    if ((i & kStep) == 0) exchange<kStep>(v[i], v[i + kStep], std::make_integer_sequence<int, kWidth>());
  }
  if constexpr (2 * kStep < kWidth) transpose<2 * kStep>(v);
}

// One that pack_rows moves: a number, or a lane, which may begin at any bf16.
static inline float number(const float* p) {
  float x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
static inline float number(const BFloat16* p) { return as_float(*p); }

// A panel: out[c * kColumns + i] = row(i)[c] for i < valid and c < k, the rest 0. kColumns is a multiple of kWidth.
template <int kColumns, class Row>
static inline void pack_rows(const Row& row, int64_t valid, int64_t k, float* out) {
  for (int64_t first = 0; first < kColumns; first += kWidth) {
    const int64_t some = valid - first;
    int64_t c = 0;
    for (; c + kWidth <= k; c += kWidth) {
      Vec v[kWidth];
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) v[i] = i < some ? load(row(first + i) + c) : Vec{};
      transpose(v);
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) store(out + (c + i) * kColumns + first, v[i]);
    }
    for (; c < k; ++c) {
      for (int i = 0; i < kWidth; ++i) out[c * kColumns + first + i] = i < some ? number(row(first + i) + c) : 0;
    }
  }
}

}  // namespace mlxdiff::MLXDIFF_ISA
