// The inner loops: written once in kernels/, compiled once for each instruction set, called through a table.
//
// Each name below is a function in namespace mlxdiff::MLXDIFF_ISA. What is compiled for an instruction set must be
// reachable only through its table. So files in kernels/ use no templates or inline functions of the standard library:
// the linker keeps one copy of such a function for the whole module, perhaps the one that needs AVX-512.
#pragma once

#include <cstdint>
#include <string_view>

#include "pool.h"

namespace mlxdiff {

struct Attention {
  const float *q, *k, *v;  // (batch, queries or keys, heads * size), the last axis contiguous
  const float* mask;  // added to the scores (batch, heads, queries, keys); may be null
  float* out;  // (batch, queries, heads * size)
  int64_t batch, heads, queries, keys, size;
  int64_t q_batch, q_row, k_batch, k_row, v_batch, v_row;  // strides
  int64_t mask_batch, mask_head, mask_query, mask_key;  // strides, 0 where the mask is broadcast
};

struct GroupNorm {
  const float* x;  // (batch, rows, channels)
  const float *weight, *bias;  // (channels)
  const float* shift;  // (batch, channels), added to x first; may be null
  float* y;  // may be x
  int64_t batch, rows, channels, groups;
  int64_t shift_batch;  // stride, 0 where all images have the same
  float eps;
  bool silu;  // of the result
};

// KERNEL(name, (arguments)); all arrays are fp32.
// Scratch memory is the caller's: NAME_scratch says how many floats it takes.
#define MLXDIFF_KERNELS(KERNEL)                                                                                \
  /* y[i] = f(x[i]) for i < n; y may be x. */                                                                  \
  KERNEL(silu, (const float* x, float* y, int64_t n))                                                          \
  KERNEL(gelu, (const float* x, float* y, int64_t n))                                                          \
  KERNEL(quick_gelu, (const float* x, float* y, int64_t n))                                                    \
  /* x: rows of 2 * width; y: rows of width, x1 * gelu(x2). */                                                 \
  KERNEL(geglu, (const float* x, float* y, int64_t rows, int64_t width))                                       \
  /* y: rows of width, a + (b + bias); bias (width); y may be a. */                                            \
  KERNEL(add_biased, (const float* a, const float* b, const float* bias, float* y, int64_t rows,               \
                      int64_t width))                                                                          \
  KERNEL(layer_norm, (const float* x, const float* weight, const float* bias, float* y, int64_t rows,          \
                      int64_t channels, float eps))                                                            \
  KERNEL(group_norm_scratch, (const GroupNorm& g, int64_t& floats))                                            \
  KERNEL(group_norm, (const GroupNorm& g, Pool& pool, float* scratch))                                         \
  KERNEL(attention_scratch, (const Attention& a, int threads, int64_t& floats))                                \
  KERNEL(attention, (const Attention& a, Pool& pool, float* scratch))                                          \
  /* How many columns a panel of weights has: a multiple of the vectors', at most kMostColumns. */             \
  KERNEL(panel_columns, (int64_t* columns))                                                                    \
  /* weights[j * stride + c] for j < valid and c < k to out (k, columns), the rest 0. */                       \
  KERNEL(pack_panel, (const float* weights, int64_t stride, int64_t valid, int64_t k, float* out))             \
  /* out (count, columns) becomes, or with `add` grows by, the product of rows[i] + from (k) and weights */    \
  /* (k, columns). */                                                                                          \
  KERNEL(product, (const float* const* rows, int64_t count, int64_t from, const float* weights, int64_t k,     \
                   bool add, float* out))                                                                      \
  /* Winograd's transforms: of 36 pixels in[p] + from, of weights (9, count), of sums (36, channels) to the */ \
  /* 16 pixels out[p] that are not null. Positions lie `stride` apart; start (columns) is added to pixels. */  \
  KERNEL(winograd_pixels, (const float* const* in, int64_t from, int64_t channels, float* out,                 \
                           int64_t stride))                                                                    \
  KERNEL(winograd_weights, (const float* in, int64_t count, float* out, int64_t stride))                       \
  KERNEL(winograd_sums, (const float* in, int64_t stride, const float* start, float* const* out,               \
                         int64_t channels))

constexpr int64_t kMostColumns = 32;

struct Kernels {
  std::string_view instruction_set;
#define MLXDIFF_POINTER(name, arguments) void(*name) arguments;
  MLXDIFF_KERNELS(MLXDIFF_POINTER)
#undef MLXDIFF_POINTER
};

#ifdef MLXDIFF_ISA
namespace MLXDIFF_ISA {
#define MLXDIFF_DECLARE(name, arguments) void name arguments;
MLXDIFF_KERNELS(MLXDIFF_DECLARE)
#undef MLXDIFF_DECLARE
}  // namespace MLXDIFF_ISA
#endif

}  // namespace mlxdiff
