// Attention with an online softmax (Milakov and Gimelshein 2018), in blocks of queries and keys that stay in the caches.
#include "../kernels.h"
#include "simd.h"

namespace mlxdiff::MLXDIFF_ISA {
namespace {

// Rows of a tile of products that stays in registers; it is two vectors wide.
#if defined(__AVX512F__)
constexpr int kRows = 12;
#elif defined(__AVX__)
constexpr int kRows = 6;
#elif defined(__aarch64__)
constexpr int kRows = 8;
#else
constexpr int kRows = 4;
#endif
constexpr int kPanel = 2 * kWidth;

constexpr int64_t kQueries = 96;  // in a block, at most; a multiple of every kRows
constexpr int64_t kKeys = 256;  // in a block
constexpr int64_t kDepth = 128;  // of products that are summed at once; short sums round less
constexpr int64_t kPacked = 64;  // keys that are packed at once

int64_t up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// c (kRows, kVectors vectors) (+)= a (kRows, depth) @ b (depth, kVectors vectors), b without gaps. Depth counts lanes.
template <int kVectors>
inline void tile(const Lane* a, int64_t a_row, const float* b, int64_t depth, float* c, int64_t c_row, bool add) {
  Vec sums[kRows][kVectors] = {};
  for (int64_t d = 0; d < depth; ++d, b += kVectors * kWidth) {
    Vec row[kVectors];
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) row[j] = load(b + j * kWidth);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const Vec x = splat_lane(a[r * a_row + d]);
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) sums[r][j] = multiply_add(sums[r][j], x, row[j]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kVectors; ++j) {
      float* to = c + r * c_row + j * kWidth;
      store(to, add ? load(to) + sums[r][j] : sums[r][j]);
    }
  }
}

// c (rows, columns) (+)= a (rows, depth) @ b, b in panels as `Panels` has them; rows is a multiple of kRows.
void multiply(const Lane* a, int64_t a_row, const float* b, int64_t panel, int64_t depth, float* c, int64_t c_row,
              int64_t rows, int64_t columns, bool add) {
  for (int64_t j = 0; j < columns; j += kPanel, b += panel * kPanel) {
    const bool whole = columns - j > kWidth;
    for (int64_t d = 0; d < depth; d += kDepth) {
      const int64_t deep = least(kDepth, depth - d);
      for (int64_t r = 0; r < rows; r += kRows) {
        const Lane* from = a + r * a_row + d;
        float* to = c + r * c_row + j;
        if (whole) {
          tile<2>(from, a_row, b + d * kPanel, deep, to, c_row, add || d > 0);
        } else {
          tile<1>(from, a_row, b + d * kWidth, deep, to, c_row, add || d > 0);
        }
      }
    }
  }
}

// The lengths that follow from the sizes.
struct Plan {
  int64_t queries;  // in a block
  int64_t blocks;  // of queries, for each head
  int64_t width;  // size, rounded up to vectors
  int64_t deep, key_lanes;  // lanes of a query's or key's numbers, and of a column of values
  int64_t packed_keys, packed_values;  // floats, for each head
  int64_t own;  // floats, for each thread

  Plan(const Attention<Real>& a, int threads) {
    queries = kQueries;
    while (queries > 24 && a.batch * a.heads * ((a.queries + queries - 1) / queries) < 4 * threads) queries /= 2;
    blocks = (a.queries + queries - 1) / queries;
    width = up(a.size, kWidth);
    deep = a.size / kPerLane<Real>;
    key_lanes = (a.keys + kPerLane<Real> - 1) / kPerLane<Real>;
    packed_keys = up(up(a.keys, kWidth) * deep, 16);
    packed_values = up(width * key_lanes, 16);
    own = queries * (up(a.size, 16) + kKeys + up(width, 16) + 2) + 64;
  }
};

// Panels of keys: (deep, kPanel) for each kPanel keys; the last may be (deep, kWidth). Absent keys are 0.
void pack_keys(const Real* k, int64_t row, int64_t first, int64_t last, int64_t keys, int64_t deep, float* to) {
  for (int64_t j = first; j < last; j += kPanel) {
    const int64_t wide = up(keys, kWidth) - j > kWidth ? kPanel : kWidth;
    float* panel = to + j * deep;
    for (int64_t i = 0; i < wide; ++i) {
      const Lane* from = reinterpret_cast<const Lane*>(k + (j + i) * row);
      const bool there = j + i < keys;
      for (int64_t d = 0; d < deep; ++d) panel[d * wide + i] = there ? from[d] : 0.0f;
    }
  }
}

#ifdef MLXDIFF_BF16
// The lanes of n columns of two rows of values.
inline Vec value_lanes(const BFloat16* v, const BFloat16* next, int64_t n) {
  const __mmask16 some = static_cast<__mmask16>((1u << n) - 1), some_next = next == nullptr ? __mmask16{0} : some;
  const Bits low = bits_of(_mm256_maskz_loadu_epi16(some, v)), high = bits_of(_mm256_maskz_loadu_epi16(some_next, next));
  return (Vec)(low | high << 16);
}
#else
inline Vec value_lanes(const float* v, const float*, int64_t n) { return n == kWidth ? load(v) : load_part(v, n); }
#endif

// Panels of values: (all lanes of keys, kPanel) for each kPanel columns; the last may be (all lanes, kWidth).
void pack_values(const Real* v, int64_t row, int64_t first, int64_t last, int64_t keys, int64_t key_lanes, int64_t size,
                 float* to) {
  constexpr int64_t per = kPerLane<Real>;
  for (int64_t j = 0; j < size; j += kPanel) {
    const int64_t wide = up(size, kWidth) - j > kWidth ? kPanel : kWidth;
    float* panel = to + j * key_lanes;
    for (int64_t i = first; i < last; i += per) {
      const Real* from = v + i * row;
      const Real* next = i + per <= keys ? from + (per - 1) * row : nullptr;
      for (int64_t c = 0; c < wide; c += kWidth) {
        const int64_t at = j + c, n = least(kWidth, size - at);
        store(panel + i / per * wide + c, value_lanes(from + at, next == nullptr ? nullptr : next + at, n));
      }
    }
  }
}

// Turns a row of n scores into weights, as Reals in the same place; brings its maximum and its sum up to date. Scores
// times `scale` are powers of 2. Returns what the sums so far have to be multiplied with.
float weigh(float* scores, int64_t n, float scale, float& most, float& total) {
  Real* weights = reinterpret_cast<Real*>(scores);
  Vec top = splat(-__builtin_inff());
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const Vec s = load(scores + i);
    top = s > top ? s : top;
  }
  if (i < n) {
    const Vec s = load_part(scores + i, n - i, -__builtin_inff());
    top = s > top ? s : top;
  }
  const float here = largest(top) * scale;
  const float highest = here > most ? here : most;
  // Where all scores so far are -inf, the weights are 0.
  const float base = highest == -__builtin_inff() ? 0.0f : highest;
  const float fade = exp2(splat(most - base))[0];
  Vec sums{};
  for (i = 0; i + kWidth <= n; i += kWidth) {
    const Vec weight = exp2(load(scores + i) * scale - base);
    store(weights + i, weight);
    sums += weight;
  }
  if (i < n) {
    const Vec weight = exp2(load_part(scores + i, n - i, -__builtin_inff()) * scale - base);
    store_part(weights + i, weight, n - i);
    sums += weight;
  }
  if (n % kPerLane<Real> != 0) put(weights + n, 0);  // the other half of the last lane
  total = total * fade + sum(sums);
  most = highest;
  return fade;
}

void add_mask(const Attention<Real>& a, int64_t b, int64_t head, int64_t query, int64_t key, float* scores, int64_t n,
              float scale) {
  const Real* mask = a.mask + b * a.mask_batch + head * a.mask_head + query * a.mask_query + key * a.mask_key;
  for (int64_t i = 0; i < n; ++i) scores[i] = scores[i] * scale + kLog2E * as_float(mask[i * a.mask_key]);
}

// One block of queries of one head against all keys.
void attend(const Attention<Real>& a, const Plan& plan, int64_t b, int64_t head, int64_t first, const float* keys,
            const float* values, float* own) {
  constexpr int64_t per = kPerLane<Real>;
  const int64_t rows = least(plan.queries, a.queries - first), padded = up(rows, kRows), size = a.size;
  const int64_t out_row = up(plan.width, 16);
  Real* q = reinterpret_cast<Real*>(own);
  float* scores = own + plan.queries * up(size, 16);
  float* out = scores + plan.queries * kKeys;
  float* most = out + plan.queries * out_row;
  float* total = most + plan.queries;
  const float scale = kLog2E / __builtin_sqrtf(static_cast<float>(size));
  const Real* from = a.q + b * a.q_batch + first * a.q_row + head * size;
  for (int64_t r = 0; r < padded; ++r) {
    for (int64_t d = 0; d < size; ++d) q[r * size + d] = r < rows ? from[r * a.q_row + d] : Real{};
    most[r] = -__builtin_inff();
    total[r] = 0;
  }
  for (int64_t i = 0; i < padded * out_row; ++i) out[i] = 0;

  for (int64_t key = 0; key < a.keys; key += kKeys) {
    const int64_t n = least(kKeys, a.keys - key);
    // kKeys is a multiple of kPanel, so that a block begins with a panel.
    multiply(reinterpret_cast<const Lane*>(q), plan.deep, keys + key * plan.deep, plan.deep, plan.deep, scores, kKeys,
             padded, up(n, kWidth), false);
    for (int64_t r = 0; r < rows; ++r) {
      float* row = scores + r * kKeys;
      if (a.mask != nullptr) add_mask(a, b, head, first + r, key, row, n, scale);
      const float fade = weigh(row, n, a.mask == nullptr ? scale : 1.0f, most[r], total[r]);
      if (fade == 1.0f) continue;
      for (int64_t c = 0; c < plan.width; c += kWidth) store(out + r * out_row + c, load(out + r * out_row + c) * fade);
    }
    // What comes of the rows that only fill up a tile, nobody reads.
    for (int64_t j = 0; j < plan.width; j += kPanel) {
      const int64_t wide = plan.width - j > kWidth ? kPanel : kWidth;
      multiply(scores, kKeys, values + j * plan.key_lanes + key / per * wide, 0, (n + per - 1) / per, out + j, out_row,
               padded, wide, true);
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    Real* to = a.out + ((b * a.queries + first + r) * a.heads + head) * size;
    const float* row = out + r * out_row;
    const float factor = 1.0f / total[r];
    int64_t d = 0;
    for (; d + kWidth <= size; d += kWidth) store(to + d, load(row + d) * factor);
    if (d < size) store_part(to + d, load_part(row + d, size - d) * factor, size - d);
  }
}

}  // namespace

void attention_scratch(const Attention<Real>& a, int threads, int64_t& floats) {
  const Plan plan(a, threads);
  floats = a.batch * a.heads * (plan.packed_keys + plan.packed_values) + threads * up(plan.own, 16);
}

void attention(const Attention<Real>& a, Pool& pool, float* scratch) {
  const int threads = pool.threads();
  const Plan plan(a, threads);
  const int64_t all = a.batch * a.heads, parts = (a.keys + kPacked - 1) / kPacked;
  float* keys = scratch;
  float* values = keys + all * plan.packed_keys;
  float* own = values + all * plan.packed_values;

  pool.parallel_for(all * parts, [&](int64_t i, int) {
    const int64_t one = i / parts, b = one / a.heads, head = one % a.heads;
    const int64_t first = i % parts * kPacked, last = least(first + kPacked, a.keys);
    pack_keys(a.k + b * a.k_batch + head * a.size, a.k_row, first, last, a.keys, plan.deep,
              keys + one * plan.packed_keys);
    pack_values(a.v + b * a.v_batch + head * a.size, a.v_row, first, last, a.keys, plan.key_lanes, a.size,
                values + one * plan.packed_values);
  });
  pool.parallel_for(all * plan.blocks, [&](int64_t i, int worker) {
    const int64_t one = i / plan.blocks;
    attend(a, plan, one / a.heads, one % a.heads, i % plan.blocks * plan.queries, keys + one * plan.packed_keys,
           values + one * plan.packed_values, own + worker * up(plan.own, 16));
  });
}

}  // namespace mlxdiff::MLXDIFF_ISA
