// The inner loops: written once in kernels/, compiled once for each instruction set, called through a table.
//
// Each name below is a function in namespace mlxdiff::MLXDIFF_ISA, for arrays of Real: fp32, or bf16 where an instruction
// set has products of it (then everything else is computed in fp32 all the same). What is compiled for an instruction set must be
// reachable only through its table. So files in kernels/ use no templates or inline functions of the standard library:
// the linker keeps one copy of such a function for the whole module, perhaps the one that needs AVX-512.
#pragma once

#include <cstdint>
#include <string_view>

#include "pool.h"

namespace mlxdiff {

// The upper half of an fp32 number.
struct BFloat16 {
  uint16_t bits;
};

// Static: a copy for each file, since those in kernels/ are compiled for other processors.
static inline float as_float(float x) { return x; }
static inline float as_float(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float number;
  __builtin_memcpy(&number, &bits, sizeof number);
  return number;
}

// How many numbers one lane of a vector of fp32 holds: a panel of bf16 has pairs of them, neighbours along k.
template <class Real>
constexpr int64_t kPerLane = 4 / sizeof(Real);

// A lane as it lies in memory.
typedef float Lane __attribute__((may_alias, aligned(2)));

template <class Real>
struct Attention {
  const Real *q, *k, *v;  // (batch, queries or keys, heads * size), the last axis contiguous
  const Real* mask;  // added to the scores (batch, heads, queries, keys); may be null
  Real* out;  // (batch, queries, heads * size)
  int64_t batch, heads, queries, keys, size;
  int64_t q_batch, q_row, k_batch, k_row, v_batch, v_row;  // strides
  int64_t mask_batch, mask_head, mask_query, mask_key;  // strides, 0 where the mask is broadcast
};

template <class Real>
struct GroupNorm {
  const Real* x;  // (batch, rows, channels)
  const Real *weight, *bias;  // (channels)
  const Real* shift;  // (batch, channels), added to x first; may be null
  Real* y;  // may be x
  int64_t batch, rows, channels, groups;
  int64_t shift_batch;  // stride, 0 where all images have the same
  float eps;
  bool silu;  // of the result
};

// KERNEL(name, (arguments)). Scratch memory is the caller's: NAME_scratch says how many floats it takes.
#define MLXDIFF_KERNELS(KERNEL, Real)                                                                          \
  /* y[i] = f(x[i]) for i < n; y may be x. */                                                                  \
  KERNEL(silu, (const Real* x, Real* y, int64_t n))                                                            \
  KERNEL(gelu, (const Real* x, Real* y, int64_t n))                                                            \
  KERNEL(quick_gelu, (const Real* x, Real* y, int64_t n))                                                      \
  /* x: rows of 2 * width; y: rows of width, x1 * gelu(x2). */                                                 \
  KERNEL(geglu, (const Real* x, Real* y, int64_t rows, int64_t width))                                         \
  /* y: rows of width, a + (b + bias); bias (width); y may be a. */                                            \
  KERNEL(add_biased, (const Real* a, const Real* b, const Real* bias, Real* y, int64_t rows, int64_t width))   \
  KERNEL(layer_norm, (const Real* x, const Real* weight, const Real* bias, Real* y, int64_t rows,              \
                      int64_t channels, float eps))                                                            \
  KERNEL(group_norm_scratch, (const GroupNorm<Real>& g, int64_t& floats))                                      \
  KERNEL(group_norm, (const GroupNorm<Real>& g, Pool& pool, float* scratch))                                   \
  KERNEL(attention_scratch, (const Attention<Real>& a, int threads, int64_t& floats))                          \
  KERNEL(attention, (const Attention<Real>& a, Pool& pool, float* scratch))                                    \
  /* How many columns a panel of weights has: a multiple of the vectors', at most kMostColumns. */             \
  KERNEL(panel_columns, (int64_t* columns))                                                                    \
  /* weights[j * stride + c] for j < valid and c < k to out (k, columns), the rest 0: as fp32, or as lanes, */ \
  /* of which there are k, as they are. */                                                                     \
  KERNEL(pack_panel, (const Real* weights, int64_t stride, int64_t valid, int64_t k, float* out))              \
  KERNEL(pack_lanes, (const Lane* weights, int64_t stride, int64_t valid, int64_t k, float* out))              \
  /* out (count, columns) becomes, or with `add` grows by, the product of rows[i] + from (k) and weights */    \
  /* (k, columns): of fp32, or of lanes of Real. Meanwhile that many bytes from `ahead` on are fetched. */     \
  KERNEL(product, (const float* const* rows, int64_t count, int64_t from, const float* weights, int64_t k,     \
                   bool add, const void* ahead, int64_t bytes, float* out))                                    \
  KERNEL(product_of_lanes, (const Lane* const* rows, int64_t count, int64_t from, const float* weights,        \
                            int64_t k, bool add, const void* ahead, int64_t bytes, float* out))                \
  /* out[i * stride + j] = sums[i * columns + j] + start[j] for i < count and j < valid. */                    \
  KERNEL(put_sums, (const float* sums, int64_t count, const float* start, int64_t valid, Real* out,            \
                    int64_t stride))                                                                           \
  /* The same of a whole panel times the GELU of gates, which are sums as well. */                             \
  KERNEL(put_gated, (const float* sums, const float* gates, int64_t count, const float* start,                 \
                     const float* gate_start, Real* out, int64_t stride))                                      \
  /* Winograd's transforms: of 36 pixels in[p] + from, of weights (9, count), of sums (36, channels) to the */ \
  /* 16 pixels out[p] that are not null. Positions lie `stride` apart; start (columns) is added to pixels. */  \
  KERNEL(winograd_pixels, (const Real* const* in, int64_t from, int64_t channels, float* out,                  \
                           int64_t stride))                                                                    \
  KERNEL(winograd_weights, (const float* in, int64_t count, float* out, int64_t stride))                       \
  /* The same of lanes, as pack_lanes leaves them: (9, lanes, columns), lanes of Real. */                      \
  KERNEL(winograd_lanes, (const float* in, int64_t lanes, float* out, int64_t stride))                         \
  KERNEL(winograd_sums, (const float* in, int64_t stride, const float* start, Real* const* out,                \
                         int64_t channels))

constexpr int64_t kMostColumns = 32;

template <class Real>
struct Kernels {
  std::string_view instruction_set;
#define MLXDIFF_POINTER(name, arguments) void(*name) arguments;
  MLXDIFF_KERNELS(MLXDIFF_POINTER, Real)
#undef MLXDIFF_POINTER
};

#ifdef MLXDIFF_ISA
namespace MLXDIFF_ISA {
#ifdef MLXDIFF_BF16
using Real = BFloat16;
#else
using Real = float;
#endif
#define MLXDIFF_DECLARE(name, arguments) void name arguments;
MLXDIFF_KERNELS(MLXDIFF_DECLARE, Real)
#undef MLXDIFF_DECLARE
}  // namespace MLXDIFF_ISA
#endif

}  // namespace mlxdiff
