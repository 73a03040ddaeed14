#include "matmul.h"

#include <algorithm>
#include <limits>
#include <new>
#include <vector>

#include "isa.h"
#include "pool.h"
#include "scratch.h"

namespace mlxdiff {
namespace {

// Lanes of a run: with them a panel of weights stays in the first-level cache, together with a tile's rows.
constexpr int64_t kRun = 256;
// Rows of a block, whose lanes (bytes) stay in the second-level cache while panel after panel passes.
constexpr int64_t kMostRows = 256, kLeastRows = 64, kBlock = 512 << 10;
// Products of a lane for which it does not pay to wake threads.
constexpr int64_t kSmall = 1 << 15;
// Panels that are packed together (bytes), before all blocks pass them: a part of the cache of all cores.
constexpr int64_t kPanels = 4 << 20;

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What differs between the products below. All sums of an element are of one order: run after run, and within a run.
//
// panels_of_weights                      weights that are packed already, or null
// pack(column, valid, lane, lanes, out)  brings that run of weights into a panel
// results(row, column)                   where they go
// put(row, count, column, valid, sums)   takes sums (count, columns of a panel) there
//
// With kParts = 2 panels come in pairs, one of the first half of packed weights and one of the second; `put` is called for
// a pair, with the sums of both, and columns are those of the first half.
template <int kParts, class Real, class Pack, class At, class Put>
void multiply(int64_t rows, int64_t columns, int64_t lanes, const Real* x, int64_t x_row, const float* panels_of_weights,
              const Pack& pack, const At& results, const Put& put) {
  if (rows == 0 || columns == 0) return;
  const Kernels<Real>& kernel = kernels<Real>();
  int64_t wide;
  kernel.panel_columns(&wide);
  const int64_t panels = ceil_divide(columns, wide);  // of each part
  const int64_t runs = ceil_divide(lanes, kRun), depth = ceil_divide(lanes, std::max<int64_t>(1, runs));
  const int64_t most = std::clamp(kBlock / (4 * std::max<int64_t>(1, lanes)), kLeastRows, kMostRows);
  const int64_t blocks = ceil_divide(rows, most);
  // Few rows pass a panel once or twice: then each thread packs for itself, and the panel never leaves its cache.
  const bool ready = panels_of_weights != nullptr, apart = !ready && blocks <= 2;
  const int64_t group = apart || ready ? panels : std::clamp<int64_t>(kPanels / (4 * wide * std::max<int64_t>(1, lanes)), 1, panels);
  const int64_t own = wide * (kParts * kMostRows + (apart ? depth : 0)), panel_size = wide * lanes;
  const Scratch scratch(pool().threads() * own + (apart || ready ? 0 : group * panel_size));
  float* const shared = scratch.data() + pool().threads() * own;
  const float* const packed_panels = ready ? panels_of_weights : shared;
  const bool alone = rows * columns * lanes < kSmall;
  const auto loop = [alone](int64_t n, const auto& body) {
    if (!alone) return pool().parallel_for(n, body);
    for (int64_t i = 0; i < n; ++i) body(i, 0);
  };

  for (int64_t first = 0; first < panels; first += group) {
    const int64_t some = std::min(group, panels - first);
    if (!apart && !ready) {
      loop(some * runs, [&](int64_t unit, int) {
        const int64_t column = (first + unit / runs) * wide, lane = unit % runs * depth;
        pack(column, std::min(wide, columns - column), lane, std::min(depth, lanes - lane),
             shared + unit / runs * panel_size + lane * wide);
      });
    }
    loop(some * blocks, [&](int64_t unit, int worker) {
      const int64_t block = unit / some, panel = unit % some, column = (first + panel) * wide;
      const int64_t begin = rows * block / blocks, count = rows * (block + 1) / blocks - begin;
      const int64_t valid = std::min(wide, columns - column);
      float* const sums = scratch.data() + worker * own;
      float* const packed = sums + wide * kParts * kMostRows;
      // What is written at the end: lines that nobody reads before are fetched meanwhile.
      for (int64_t i = 0; i < count; ++i) {
        const Real* line = results(begin + i, column);
        __builtin_prefetch(line, 1);
        if (valid * sizeof(Real) > 64) __builtin_prefetch(line + 64 / sizeof(Real), 1);
      }
      const Lane* at[kMostRows];
      for (int64_t i = 0; i < count; ++i) at[i] = reinterpret_cast<const Lane*>(x + (begin + i) * x_row);
      if (runs == 0) std::fill_n(sums, kParts * count * wide, 0.0f);
      for (int64_t part = 0; part < kParts; ++part) {
        const float* const parts_panel = packed_panels + (part * panels + panel) * panel_size;
        for (int64_t lane = 0; lane < lanes; lane += depth) {
          const int64_t k = std::min(depth, lanes - lane);
          if (apart) pack(column, valid, lane, k, packed);
          const float* weights = apart ? packed : parts_panel + lane * wide;
          // What follows, if only in the next panel; the last ones have nothing behind them.
          const bool last = apart || (panel + 1 == some && lane + 2 * depth > lanes);
          const int64_t ahead = last ? 0 : k * wide;
          kernel.product_of_lanes(at, count, lane, weights, k, lane > 0, weights + ahead, 4 * ahead,
                                  sums + part * count * wide);
        }
      }
      put(begin, count, column, valid, sums);
    });
  }
}

}  // namespace

namespace {

template <class Real, class Pack>
void multiply_packing(const Product<Real>& p, const Pack& pack) {
  const Kernels<Real>& kernel = kernels<Real>();
  const auto at = [&](int64_t row, int64_t column) { return p.out + row * p.out_row + column; };
  const auto put = [&](int64_t row, int64_t count, int64_t column, int64_t valid, const float* sums) {
    float start[kMostColumns] = {};
    for (int64_t j = 0; p.bias != nullptr && j < valid; ++j) start[j] = as_float(p.bias[column + j]);
    kernel.put_sums(sums, count, start, valid, at(row, column), p.out_row);
  };
  multiply<1, Real>(p.rows, p.columns, p.depth / kPerLane<Real>, p.x, p.x_row, p.panels, pack, at, put);
}

// Numbers that whole words have, from the word that `from` is in to the one that ends at or behind `to`. What each is
// worth is computed as MLX does, rounded twice: this file is compiled without fused multiply-adds.
void unpack(const Quantized& q, int64_t row, int64_t depth, int64_t from, int64_t to, float* out) {
  const int64_t per = 32 / q.bits;
  const auto* bytes = reinterpret_cast<const uint8_t*>(q.words + row * (depth / per));
  while (from < to) {
    const int64_t group = from / q.group_size, end = std::min(to, (group + 1) * q.group_size);
    const int64_t which = row * (depth / q.group_size) + group;
    const float scale = q.scales[which], offset = q.offsets[which];
    if (q.bits == 8) {
      for (; from < end; ++from) *out++ = scale * static_cast<float>(bytes[from]) + offset;
      continue;
    }
    float worth[16];
    for (int i = 0; i < 16; ++i) worth[i] = scale * static_cast<float>(i) + offset;
    for (; from < end; from += 2) {
      const uint8_t two = bytes[from / 2];
      *out++ = worth[two & 15];
      *out++ = worth[two >> 4];
    }
  }
}

}  // namespace

template <class Real>
void multiply(const Product<Real>& p) {
  const Kernels<Real>& kernel = kernels<Real>();
  multiply_packing(p, [&](int64_t column, int64_t valid, int64_t lane, int64_t lanes, float* out) {
    const Real* from = p.weights + column * p.weight_row + lane * kPerLane<Real>;
    kernel.pack_lanes(reinterpret_cast<const Lane*>(from), p.weight_row / kPerLane<Real>, valid, lanes, out);
  });
}

template <class Real>
void multiply_gated(const Product<Real>& p) {
  const Kernels<Real>& kernel = kernels<Real>();
  int64_t wide;
  kernel.panel_columns(&wide);
  const int64_t width = p.columns / 2;
  const auto pack = [](int64_t, int64_t, int64_t, int64_t, float*) {};  // they are
  const auto at = [&](int64_t row, int64_t column) { return p.out + row * p.out_row + column; };
  const auto put = [&](int64_t row, int64_t count, int64_t column, int64_t, const float* sums) {
    float start[kMostColumns] = {}, gate_start[kMostColumns] = {};
    for (int64_t j = 0; p.bias != nullptr && j < wide; ++j) {
      start[j] = as_float(p.bias[column + j]);
      gate_start[j] = as_float(p.bias[width + column + j]);
    }
    kernel.put_gated(sums, sums + count * wide, count, start, gate_start, at(row, column), p.out_row);
  };
  multiply<2, Real>(p.rows, width, p.depth / kPerLane<Real>, p.x, p.x_row, p.panels, pack, at, put);
}

void multiply_quantized(const Product<float>& p, const Quantized& q) {
  constexpr int64_t kWord = 8, kRow = kRun + 2 * kWord;
  const Kernels<float>& kernel = kernels<float>();
  Product<float> product = p;
  product.panels = nullptr;
  multiply_packing(product, [&](int64_t column, int64_t valid, int64_t lane, int64_t lanes, float* out) {
    float rows[kMostColumns * kRow];
    const int64_t from = lane / kWord * kWord, to = ceil_divide(lane + lanes, kWord) * kWord;
    for (int64_t j = 0; j < valid; ++j) unpack(q, column + j, p.depth, from, to, rows + j * kRow);
    kernel.pack_lanes(rows + lane - from, kRow, valid, lanes, out);
  });
}

template void multiply(const Product<float>&);
template void multiply(const Product<BFloat16>&);
template void multiply_gated(const Product<float>&);
template void multiply_gated(const Product<BFloat16>&);

namespace {

void sgemm_by_rows(bool turn_a, bool turn_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda,
                   const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  const Kernels<float>& kernel = kernels<float>();
  int64_t wide;
  kernel.panel_columns(&wide);
  std::vector<float> straight;
  if (turn_a) {
    straight.resize(m * k);
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j < m; ++j) straight[j * k + i] = a[i * lda + j];
    }
    a = straight.data();
    lda = k;
  }
  const auto pack = [&](int64_t column, int64_t valid, int64_t lane, int64_t lanes, float* out) {
    if (turn_b) return kernel.pack_lanes(b + column * ldb + lane, ldb, valid, lanes, out);
    for (int64_t i = 0; i < lanes; ++i, out += wide) {
      std::copy_n(b + (lane + i) * ldb + column, valid, out);
      std::fill(out + valid, out + wide, 0.0f);
    }
  };
  const auto at = [&](int64_t row, int64_t column) { return c + row * ldc + column; };
  const auto put = [&](int64_t row, int64_t count, int64_t column, int64_t valid, const float* sums) {
    float* out = at(row, column);
    if (alpha == 1 && beta == 0) {
      const float nothing[kMostColumns] = {};
      return kernel.put_sums(sums, count, nothing, valid, out, ldc);
    }
    for (int64_t i = 0; i < count; ++i, out += ldc, sums += wide) {
      // What is there may be anything where it does not count.
      for (int64_t j = 0; j < valid; ++j) out[j] = alpha * sums[j] + (beta == 0 ? 0.0f : beta * out[j]);
    }
  };
  multiply<1, float>(m, n, k, a, lda, nullptr, pack, at, put);
}

}  // namespace

void sgemm(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha, const float* a, int lda,
           const float* b, int ldb, float beta, float* c, int ldc) {
  constexpr int kColumnMajor = 102, kPlain = 111;
  // By columns, what lies there is the transpose: C' = B' A'.
  if (order == kColumnMajor) {
    return sgemm(101, transpose_b, transpose_a, n, m, k, alpha, b, ldb, a, lda, beta, c, ldc);
  }
  try {
    sgemm_by_rows(transpose_a != kPlain, transpose_b != kPlain, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  } catch (const std::bad_alloc&) {
    note_lack_of_memory();
    for (int64_t i = 0; i < m; ++i) {
      std::fill_n(c + i * static_cast<int64_t>(ldc), n, std::numeric_limits<float>::quiet_NaN());
    }
  }
}

}  // namespace mlxdiff
