// What the kernels have in common: pieces of 16 bytes, and an entry point for each type of number. Entry points take a
// float as the whole number of the same bits, since MLX passes whole numbers alone.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

template <typename T, int N>
struct alignas(N * sizeof(T)) Pack {
  T at[N];
};

// As many numbers as 16 bytes hold.
template <typename T>
constexpr int WIDE = 16 / sizeof(T);

__device__ inline float silu(float x) { return x / (1.0f + __expf(-x)); }

#define FOR_EACH_TYPE(ENTRY) ENTRY(float16, __half) ENTRY(bfloat16, __nv_bfloat16) ENTRY(float32, float)
