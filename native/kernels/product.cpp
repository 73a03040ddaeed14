// The product of a few rows with a panel of weights: tiles of sums that stay in registers.
#include "../kernels.h"
#include "activations.h"
#include "simd.h"
#include "transpose.h"

namespace mlxdiff::MLXDIFF_ISA {
namespace {

// A tile of kTile rows and kVectors vectors fits the registers, beside a line of weights and one value; pointers to its
// rows fit them too.
#if defined(__AVX512F__)
constexpr int kTile = 10;
#else
constexpr int kTile = 6;
#endif
constexpr int kVectors = kColumns / kWidth;
static_assert(kColumns <= kMostColumns);

// How a tile multiplies: lanes as fp32, or as what Real makes of them.
struct AsFloat {
  static Vec multiply_add(Vec sum, Vec a, Vec b) { return sum + a * b; }
};
struct AsReal {
  static Vec multiply_add(Vec sum, Vec a, Vec b) { return MLXDIFF_ISA::multiply_add(sum, a, b); }
};

// Loops are unrolled so that the arrays become registers. Each step fetches what lies `step` bytes further ahead.
template <class As, int kRows>
void tile(const Lane* const* rows, int64_t from, const float* weights, int64_t k, bool add, const char* ahead,
          int64_t step, float* out) {
  Vec sum[kRows][kVectors];
  const Lane* a[kRows];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    a[i] = rows[i] + from;
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) sum[i][j] = add ? load(out + i * kColumns + j * kWidth) : Vec{};
  }
  for (int64_t c = 0; c < k; ++c) {
    Vec line[kVectors];
    __builtin_prefetch(ahead + c * step, 0, 2);
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) line[j] = load(weights + c * kColumns + j * kWidth);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sum[i][j] = As::multiply_add(sum[i][j], splat_lane(a[i][c]), line[j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) store(out + i * kColumns + j * kWidth, sum[i][j]);
  }
}

using Tile = void (*)(const Lane* const*, int64_t, const float*, int64_t, bool, const char*, int64_t, float*);

template <class As>
struct Tiles {
  Tile of[kTile + 1];

  template <int kRows>
  constexpr void fill() {
    of[kRows] = tile<As, kRows>;
    if constexpr (kRows > 1) fill<kRows - 1>();
  }
  constexpr Tiles() : of{} { fill<kTile>(); }
};

template <class As>
constexpr Tiles<As> tiles;

template <class As>
inline void multiply(const Lane* const* rows, int64_t count, int64_t from, const float* weights, int64_t k, bool add,
                     const void* ahead, int64_t bytes, float* out) {
  // Tiles of even heights: 16 rows are faster as 4 of 4 than as 6, 6 and 4.
  const int64_t n = (count + kTile - 1) / kTile;
  const int64_t step = n * k > 0 ? bytes / (n * k) : 0;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t first = count * i / n;
    tiles<As>.of[count * (i + 1) / n - first](rows + first, from, weights, k, add,
                                              static_cast<const char*>(ahead) + i * k * step, step,
                                              out + first * kColumns);
  }
}

template <class From>
inline void pack(const From* weights, int64_t stride, int64_t valid, int64_t k, float* out) {
  pack_rows<kColumns>([=](int64_t i) { return weights + i * stride; }, valid, k, out);
}

}  // namespace

void panel_columns(int64_t* columns) { *columns = kColumns; }

void pack_panel(const Real* weights, int64_t stride, int64_t valid, int64_t k, float* out) {
  pack(weights, stride, valid, k, out);
}

void pack_lanes(const Lane* weights, int64_t stride, int64_t valid, int64_t k, float* out) {
  pack(weights, stride, valid, k, out);
}

void product(const float* const* rows, int64_t count, int64_t from, const float* weights, int64_t k, bool add,
             const void* ahead, int64_t bytes, float* out) {
  multiply<AsFloat>(rows, count, from, weights, k, add, ahead, bytes, out);
}

void product_of_lanes(const Lane* const* rows, int64_t count, int64_t from, const float* weights, int64_t k, bool add,
                      const void* ahead, int64_t bytes, float* out) {
  multiply<AsReal>(rows, count, from, weights, k, add, ahead, bytes, out);
}

void put_sums(const float* sums, int64_t count, const float* start, int64_t valid, Real* out, int64_t stride) {
  for (int64_t i = 0; i < count; ++i, sums += kColumns, out += stride) {
    int64_t j = 0;
    for (; j + kWidth <= valid; j += kWidth) store(out + j, load(sums + j) + load(start + j));
    if (j < valid) store_part(out + j, load(sums + j) + load(start + j), valid - j);
  }
}

void put_gated(const float* sums, const float* gates, int64_t count, const float* start, const float* gate_start,
               Real* out, int64_t stride) {
  for (int64_t i = 0; i < count; ++i, sums += kColumns, gates += kColumns, out += stride) {
    for (int64_t j = 0; j < kColumns; j += kWidth) {
      store(out + j, (load(sums + j) + load(start + j)) * gelu(load(gates + j) + load(gate_start + j)));
    }
  }
}

}  // namespace mlxdiff::MLXDIFF_ISA
