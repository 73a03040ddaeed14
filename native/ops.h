// The operations, as Python calls them: all arrays in fp32, or all in bf16 where the processor multiplies that.
#pragma once

#include <optional>

#include "mlx/array.h"

namespace mlxdiff {

namespace mx = mlx::core;

// x of any shape.
mx::array silu(const mx::array& x);
mx::array gelu(const mx::array& x);
mx::array quick_gelu(const mx::array& x);

// x (..., 2 W) -> (..., W): the first half times the GELU of the second.
mx::array geglu(const mx::array& x);

// x + (y + bias); x and y (..., C), bias (C).
mx::array add_biased(const mx::array& x, const mx::array& y, const mx::array& bias);

// x (..., C), normalized over its last axis; weight and bias (C).
mx::array layer_norm(const mx::array& x, const mx::array& weight, const mx::array& bias, float eps);

// x (B, ..., C) + shift (B or 1, C), normalized over all but the batch within groups of channels; then SiLU, if `silu`.
mx::array group_norm(const mx::array& x, const mx::array& weight, const mx::array& bias, int groups, float eps,
                     const std::optional<mx::array>& shift, bool silu);

// q (B, T, D), k and v (B, S, D), D = heads * head size; mask broadcasts to (B, heads, T, S). Scores are scaled by the
// inverse root of the head size.
mx::array attention(const mx::array& q, const mx::array& k, const mx::array& v, int heads,
                    const std::optional<mx::array>& mask);

// Weights (O, C) of a linear layer or (O, kernel, kernel, C) of a convolution, in the order in which `linear` and
// `convolve` read them: they take them in place of the others. Unchanged where something would be left over (pack.h).
mx::array pack(const mx::array& weights);

// x (batch, height, width, channels) convolved with weights (out_channels, kernel, kernel, channels), plus `bias`
// (out_channels): (batch, out height, out width, out_channels). Kernels are 3 at most.
mx::array convolve(const mx::array& x, const mx::array& weights, const std::optional<mx::array>& bias, int stride,
                   int padding);

// x (..., C) times the transpose of weights (O, C), plus `bias` (O): (..., O).
mx::array linear(const mx::array& x, const mx::array& weights, const std::optional<mx::array>& bias);

// The first half of that, times the GELU of the second: (..., O / 2). Weights are packed, in an even number of panels.
mx::array linear_geglu(const mx::array& x, const mx::array& weights, const std::optional<mx::array>& bias);

// x (..., C) in fp32 times the transpose of a matrix (O, C) of 4 or 8 bits, as mlx.core.quantize gives it: weights
// (O, C * bits / 32), scales and biases (O, C / group_size).
mx::array quantized_linear(const mx::array& x, const mx::array& weights, const mx::array& scales,
                           const mx::array& biases, int group_size, int bits);

}  // namespace mlxdiff
