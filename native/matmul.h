// Products of matrices, fp32 or bf16. Sums are fp32 and of one order, whatever the number of threads.
#pragma once

#include <cstdint>

namespace mlxdiff {

// out (rows, columns) = x (rows, depth) @ transpose of weights (columns, depth) + bias (columns), which may be null.
// Strides are of rows, in elements. The depth of bf16 is even.
template <class Real>
struct Product {
  int64_t rows, columns, depth;
  const Real* x;
  int64_t x_row;
  const Real* weights;
  int64_t weight_row;
  const float* panels = nullptr;  // in place of weights: the same as pack.h has them
  const Real* bias;
  Real* out;
  int64_t out_row;
};

template <class Real>
void multiply(const Product<Real>&);

// Of the same sums the first half of the columns times the GELU of the second: out (rows, columns / 2). Weights are packed,
// in an even number of panels.
template <class Real>
void multiply_gated(const Product<Real>&);

// Weights of 4 or 8 bits as MLX packs them: (columns, depth) numbers in words of 32 bits, the first one lowest, and a
// scale and an offset for each group of a row. Groups are a multiple of 8 numbers, and depth one of theirs.
struct Quantized {
  const uint32_t* words;
  const float *scales, *offsets;
  int64_t group_size;
  int bits;
};

// The same with these weights; `weights` and `panels` of the product are not looked at. The matrix is never there as a
// whole.
void multiply_quantized(const Product<float>&, const Quantized&);

// CBLAS's function of that name. Where there is no memory for it, the result is NaN.
void sgemm(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha, const float* a, int lda,
           const float* b, int ldb, float beta, float* c, int ldc);

}  // namespace mlxdiff
