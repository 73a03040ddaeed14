// Attention with an online softmax (Milakov and Gimelshein 2018), in blocks of queries and keys that stay in the caches.
//
// A vector holds one number of each of kWidth queries: scores are (keys, queries), results (size, queries). So the softmax
// goes down columns, without sums across a vector, and weights lie as the product with values reads them.
#include "../kernels.h"
#include "simd.h"
#include "transpose.h"

namespace mlxdiff::MLXDIFF_ISA {
namespace {

// A tile of products, kRows keys or numbers of a value by up to kMostVectors vectors of queries, stays in registers.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRows = 8, kMostVectors = 3;
#elif defined(__AVX__)
constexpr int kRows = 4, kMostVectors = 3;
#else
constexpr int kRows = 4, kMostVectors = 2;
#endif
// Columns of a panel of keys or values.
constexpr int kPanel = kRows > kWidth ? kRows : kWidth;
static_assert(kPanel % kRows == 0 && kPanel % kWidth == 0);

constexpr int64_t kQueries = kMostVectors * kWidth;  // in a group, at most
constexpr int64_t kKeys = 128;  // in a block; a multiple of kPanel
constexpr int64_t kDepth = 64;  // of products that are summed at once: that part of the queries stays in the nearest cache
constexpr int64_t kMostGroups = 4;  // in a block of queries
constexpr int64_t kBlock = 512 << 10;  // bytes of its queries and results, about, at most
constexpr int64_t kPacked = 64;  // keys that are packed at once; a multiple of kPanel

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t up(int64_t n, int64_t step) { return ceil_divide(n, step) * step; }
int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// The lengths that follow from the sizes.
struct Plan {
  int64_t deep, key_lanes;  // lanes of a query's or key's numbers, and of a column of values
  int64_t packed_keys, packed_values;  // floats, for each head
  int64_t vectors, groups, blocks;  // of the queries, for each head
  int64_t group;  // floats of a group's queries, results, maxima and sums
  int64_t own;  // floats, for each thread

  Plan(const Attention<Real>& a, int threads) {
    deep = a.size / kPerLane<Real>;
    key_lanes = ceil_divide(a.keys, kPerLane<Real>);
    packed_keys = up(up(a.keys, kPanel) * deep, 16);
    packed_values = up(up(a.size, kPanel) * key_lanes, 16);
    vectors = ceil_divide(a.queries, kWidth);
    groups = ceil_divide(vectors, kMostVectors);
    group = kQueries * (deep + up(a.size, kRows) + 2);
    int64_t together = least(kMostGroups, kBlock / (4 * group));
    while (together > 1 && a.batch * a.heads * ceil_divide(groups, together) < 4 * threads) --together;
    blocks = ceil_divide(groups, together < 1 ? 1 : together);
    own = ceil_divide(groups, blocks) * group + kKeys * kQueries;
  }
};

// Panels of keys: (deep, kPanel) for each kPanel keys. Absent keys are 0.
void pack_keys(const Attention<Real>& a, int64_t b, int64_t head, int64_t first, int64_t last, int64_t deep, float* to) {
  const Real* keys = a.k + b * a.k_batch + head * a.size;
  for (int64_t key = first; key < last; key += kPanel) {
    const auto row = [&](int64_t i) { return reinterpret_cast<const Lane*>(keys + (key + i) * a.k_row); };
    pack_rows<kPanel>(row, a.keys - key, deep, to + key * deep);
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

// Panels of values: (all lanes of keys, kPanel) for each kPanel columns. Absent columns are 0.
void pack_values(const Attention<Real>& a, int64_t b, int64_t head, int64_t first, int64_t last, int64_t key_lanes,
                 float* to) {
  constexpr int64_t per = kPerLane<Real>;
  const Real* values = a.v + b * a.v_batch + head * a.size;
  for (int64_t i = first; i < last; i += per) {
    const Real* from = values + i * a.v_row;
    const Real* next = i + per <= a.keys ? from + (per - 1) * a.v_row : nullptr;
    for (int64_t j = 0; j < up(a.size, kPanel); j += kWidth) {
      const int64_t n = least(kWidth, a.size - j);
      const Vec lanes = n > 0 ? value_lanes(from + j, next == nullptr ? nullptr : next + j, n) : Vec{};
      store(to + (j / kPanel * key_lanes + i / per) * kPanel + j % kPanel, lanes);
    }
  }
}

// The product of kRows columns of a panel (depth, kPanel) with vectors (depth, kVectors). Depth counts lanes.
template <int kVectors>
inline void multiply(const float* panel, const float* vectors, int64_t depth, Vec (&sums)[kRows][kVectors]) {
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; ++j) sums[r][j] = Vec{};
  }
  for (int64_t d = 0; d < depth; ++d, panel += kPanel, vectors += kVectors * kWidth) {
    Vec line[kVectors];
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; ++j) line[j] = load(vectors + j * kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec x = splat_lane(panel[r]);
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; ++j) sums[r][j] = multiply_add(sums[r][j], x, line[j]);
    }
  }
}

#ifdef MLXDIFF_BF16
// Weights of two keys as lanes.
inline Vec weight_lanes(Vec weight, Vec next) {
  const __m512i apart = (__m512i)_mm512_cvtne2ps_pbh((__m512)next, (__m512)weight);
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                         20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return (Vec)_mm512_permutexvar_epi16(order, apart);
}
#else
inline Vec weight_lanes(Vec weight, Vec) { return weight; }
#endif

// Turns scores of n keys into weights, as lanes in the same place; brings the maxima and the sums up to date. Scores times
// `scale` are powers of 2. `fade` is what the sums so far have to be multiplied with.
template <int kVectors>
inline void weigh(float* scores, int64_t n, float scale, float* most, float* total, Vec (&fade)[kVectors]) {
  constexpr int64_t per = kPerLane<Real>, row = kVectors * kWidth;
  Vec top[kVectors], base[kVectors], sums[kVectors];
#pragma GCC unroll 3
  for (int j = 0; j < kVectors; ++j) top[j] = splat(-__builtin_inff());
  for (int64_t i = 0; i < n; ++i) {
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; ++j) top[j] = at_least(top[j], load(scores + i * row + j * kWidth));
  }
#pragma GCC unroll 3
  for (int j = 0; j < kVectors; ++j) {
    const Vec before = load(most + j * kWidth), now = at_least(before, top[j] * scale);
    store(most + j * kWidth, now);
    // Where all scores so far are -inf, the weights are 0.
    base[j] = now == -__builtin_inff() ? Vec{} : now;
    fade[j] = exp2_of_negative(before - base[j]);
    sums[j] = Vec{};
  }
  for (int64_t i = 0; i < n; i += per) {
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; ++j) {
      const float* score = scores + i * row + j * kWidth;
      const Vec weight = exp2_of_negative(load(score) * scale - base[j]);
      sums[j] += weight;
      Vec next{};
      if (per > 1 && i + 1 < n) {
        next = exp2_of_negative(load(score + row) * scale - base[j]);
        sums[j] += next;
      }
      store(scores + i / per * row + j * kWidth, weight_lanes(weight, next));
    }
  }
#pragma GCC unroll 3
  for (int j = 0; j < kVectors; ++j) store(total + j * kWidth, load(total + j * kWidth) * fade[j] + sums[j]);
}

// A group of queries as it lies in a thread's memory.
struct Group {
  int64_t first, vectors;  // query, and how many vectors of them
  float *queries, *out, *most, *total;  // (deep, vectors), (size, vectors), (vectors), (vectors)
};

// scores (n, vectors) times scale, plus the mask.
void add_mask(const Attention<Real>& a, int64_t b, int64_t head, const Group& group, int64_t key, int64_t n, float scale,
              float* scores) {
  const Real* mask = a.mask + b * a.mask_batch + head * a.mask_head + group.first * a.mask_query + key * a.mask_key;
  const int64_t row = group.vectors * kWidth, queries = least(row, a.queries - group.first);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < queries; ++j) {
      const float shift = as_float(mask[i * a.mask_key + j * a.mask_query]);
      scores[i * row + j] = scores[i * row + j] * scale + kLog2E * shift;
    }
  }
}

// A group of queries of one head with a block of n keys.
template <int kVectors>
void attend(const Attention<Real>& a, const Plan& plan, int64_t b, int64_t head, const Group& group, int64_t key, int64_t n,
            const float* keys, const float* values, float* scores) {
  constexpr int64_t per = kPerLane<Real>, row = kVectors * kWidth;
  Vec sums[kRows][kVectors], fade[kVectors];
  for (int64_t d = 0; d < plan.deep; d += kDepth) {
    for (int64_t i = 0; i < n; i += kRows) {
      const float* panel = keys + (key + i) / kPanel * kPanel * plan.deep + i % kPanel;
      multiply<kVectors>(panel + d * kPanel, group.queries + d * row, least(kDepth, plan.deep - d), sums);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 3
        for (int j = 0; j < kVectors; ++j) {
          float* to = scores + (i + r) * row + j * kWidth;
          store(to, d == 0 ? sums[r][j] : load(to) + sums[r][j]);
        }
      }
    }
  }
  float scale = kLog2E / __builtin_sqrtf(static_cast<float>(a.size));
  if (a.mask != nullptr) {
    add_mask(a, b, head, group, key, n, scale, scores);
    scale = 1;
  }
  weigh<kVectors>(scores, n, scale, group.most, group.total, fade);
  for (int64_t c = 0; c < a.size; c += kRows) {
    multiply<kVectors>(values + (c / kPanel * plan.key_lanes + key / per) * kPanel + c % kPanel, scores,
                       ceil_divide(n, per), sums);
    float* out = group.out + c * row;
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; ++j) {
        float* to = out + r * row + j * kWidth;
        store(to, load(to) * fade[j] + sums[r][j]);
      }
    }
  }
}

template <int kVectors>
void begin(const Attention<Real>& a, const Plan& plan, int64_t b, int64_t head, const Group& group) {
  constexpr int64_t row = kVectors * kWidth;
  const Real* queries = a.q + b * a.q_batch + group.first * a.q_row + head * a.size;
  pack_rows<row>([&](int64_t i) { return reinterpret_cast<const Lane*>(queries + i * a.q_row); }, a.queries - group.first,
                 plan.deep, group.queries);
  for (int64_t i = 0; i < up(a.size, kRows) * row; ++i) group.out[i] = 0;
  for (int64_t i = 0; i < row; ++i) group.most[i] = -__builtin_inff(), group.total[i] = 0;
}

void end(const Attention<Real>& a, int64_t b, int64_t head, const Group& group) {
  const int64_t row = group.vectors * kWidth;
  for (int64_t j = 0; j < row; j += kWidth) {
    const Vec factor = 1.0f / load(group.total + j);
    const int64_t first = group.first + j, queries = least(kWidth, a.queries - first);
    Real* out = a.out + ((b * a.queries + first) * a.heads + head) * a.size;
    for (int64_t c = 0; c < a.size; c += kWidth) {
      const int64_t columns = least(kWidth, a.size - c);
      Vec v[kWidth];
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) v[i] = i < columns ? load(group.out + (c + i) * row + j) * factor : Vec{};
      transpose(v);
      for (int64_t i = 0; i < queries; ++i) {
        Real* to = out + i * a.heads * a.size + c;
        if (columns == kWidth) store(to, v[i]);
        else store_part(to, v[i], columns);
      }
    }
  }
}

using Begin = void (*)(const Attention<Real>&, const Plan&, int64_t, int64_t, const Group&);
using Attend = void (*)(const Attention<Real>&, const Plan&, int64_t, int64_t, const Group&, int64_t, int64_t,
                        const float*, const float*, float*);
constexpr Begin kBegin[] = {begin<1>, begin<2>, begin<3>};
constexpr Attend kAttend[] = {attend<1>, attend<2>, attend<3>};
static_assert(kMostVectors <= 3);

// One block of queries of one head against all keys.
void attend_all(const Attention<Real>& a, const Plan& plan, int64_t b, int64_t head, int64_t block, const float* keys,
                const float* values, float* own) {
  Group groups[kMostGroups];
  const int64_t begins = plan.groups * block / plan.blocks, n = plan.groups * (block + 1) / plan.blocks - begins;
  float* const scores = own + n * plan.group;
  for (int64_t i = 0; i < n; ++i) {
    // Groups of even widths: 4 vectors are faster as 2 and 2 than as 3 and 1.
    const int64_t first = plan.vectors * (begins + i) / plan.groups, last = plan.vectors * (begins + i + 1) / plan.groups;
    float* const queries = own + i * plan.group;
    float* const out = queries + kQueries * plan.deep;
    float* const most = out + kQueries * up(a.size, kRows);
    groups[i] = {first * kWidth, last - first, queries, out, most, most + kQueries};
    kBegin[last - first - 1](a, plan, b, head, groups[i]);
  }
  for (int64_t key = 0; key < a.keys; key += kKeys) {
    for (int64_t i = 0; i < n; ++i) {
      kAttend[groups[i].vectors - 1](a, plan, b, head, groups[i], key, least(kKeys, a.keys - key), keys, values, scores);
    }
  }
  for (int64_t i = 0; i < n; ++i) end(a, b, head, groups[i]);
}

}  // namespace

void attention_scratch(const Attention<Real>& a, int threads, int64_t& floats) {
  const Plan plan(a, threads);
  floats = a.batch * a.heads * (plan.packed_keys + plan.packed_values) + threads * plan.own;
}

void attention(const Attention<Real>& a, Pool& pool, float* scratch) {
  const int threads = pool.threads();
  const Plan plan(a, threads);
  const int64_t all = a.batch * a.heads, parts = ceil_divide(a.keys, kPacked);
  float* keys = scratch;
  float* values = keys + all * plan.packed_keys;
  float* own = values + all * plan.packed_values;

  pool.parallel_for(all * parts, [&](int64_t i, int) {
    const int64_t one = i / parts, b = one / a.heads, head = one % a.heads;
    const int64_t first = i % parts * kPacked, last = least(first + kPacked, a.keys);
    pack_keys(a, b, head, first, last, plan.deep, keys + one * plan.packed_keys);
    pack_values(a, b, head, first, last, plan.key_lanes, values + one * plan.packed_values);
  });
  pool.parallel_for(all * plan.blocks, [&](int64_t i, int worker) {
    const int64_t one = i / plan.blocks;
    attend_all(a, plan, one / a.heads, one % a.heads, i % plan.blocks, keys + one * plan.packed_keys,
               values + one * plan.packed_values, own + worker * plan.own);
  });
}

}  // namespace mlxdiff::MLXDIFF_ISA
