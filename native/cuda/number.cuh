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

// out's pieces of 16 bytes, piece i being change(read(i), i). A thread moves LOADS of them, all read before the first is
// written; cuda.py has that number too.
template <typename T, typename Read, typename Change>
__device__ inline void move(T* out, unsigned pieces, Read read, Change change) {
  constexpr unsigned LOADS = 4;
  const unsigned first = blockIdx.x * blockDim.x * LOADS + threadIdx.x;
  Pack<T, WIDE<T>> some[LOADS];
#pragma unroll
  for (unsigned k = 0; k < LOADS; k++) {
    const unsigned index = first + k * blockDim.x;
    if (index < pieces) some[k] = *reinterpret_cast<const Pack<T, WIDE<T>>*>(read(index));
  }
#pragma unroll
  for (unsigned k = 0; k < LOADS; k++) {
    const unsigned index = first + k * blockDim.x;
    if (index < pieces) *reinterpret_cast<Pack<T, WIDE<T>>*>(out + size_t(index) * WIDE<T>) = change(some[k], index);
  }
}

// Two instructions of the special unit, without what CUDA adds to them for denormal numbers.
__device__ inline float silu(float x) {
  float exponential, share;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(exponential) : "f"(x * -1.44269504f));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(share) : "f"(1.0f + exponential));
  return x * share;
}

#define FOR_EACH_TYPE(ENTRY) ENTRY(float16, __half) ENTRY(bfloat16, __nv_bfloat16) ENTRY(float32, float)
