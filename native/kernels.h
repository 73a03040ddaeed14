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

// KERNEL(name, (arguments)); all arrays are fp32.
#define MLXDIFF_KERNELS(KERNEL)                                 \
  /* y[i] = f(x[i]) for i < n; y may be x. */                   \
  KERNEL(silu, (const float* x, float* y, int64_t n))           \
  KERNEL(gelu, (const float* x, float* y, int64_t n))           \
  KERNEL(quick_gelu, (const float* x, float* y, int64_t n))     \
  /* x: rows of 2 * width; y: rows of width, x1 * gelu(x2). */  \
  KERNEL(geglu, (const float* x, float* y, int64_t rows, int64_t width))

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
