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

// 16 bytes that nobody reads again soon: the first to leave the L2 cache, where others then stay.
template <typename T>
__device__ inline Pack<T, WIDE<T>> read_last(const T* from) {
  const uint4 some = __ldcs(reinterpret_cast<const uint4*>(from));
  return *reinterpret_cast<const Pack<T, WIDE<T>>*>(&some);
}

// Two instructions of the special unit, without what CUDA adds to them for denormal numbers.
__device__ inline float silu(float x) {
  float exponential, share;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(exponential) : "f"(x * -1.44269504f));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(share) : "f"(1.0f + exponential));
  return x * share;
}

#define FOR_EACH_TYPE(ENTRY) ENTRY(float16, __half) ENTRY(bfloat16, __nv_bfloat16) ENTRY(float32, float)
