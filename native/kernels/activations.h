// Activations of a vector.
#pragma once

#include "simd.h"

namespace mlxdiff::MLXDIFF_ISA {

static inline Vec silu(Vec x) { return x / (1.0f + exp(-x)); }
static inline Vec quick_gelu(Vec x) { return x / (1.0f + exp(-1.702f * x)); }

// x * Phi(x). From Phi(-|x|), so that large negative x keep their digits.
static inline Vec gelu(Vec x) {
  const Vec a = x < 0.0f ? -x : x;
  const Vec tail = phi_of_negative(a);
  return x * (x < 0.0f ? tail : 1.0f - tail);
}

}  // namespace mlxdiff::MLXDIFF_ISA
