// GEGLU of a linear layer in one kernel, for compute capability 9.0: x (rows, depth) times the transpose of weight
// (2 width, depth), plus bias, and the first half of that times the exact GELU of the second: out (rows, width).
//
// Two blocks make a tile of 256 rows and 128 columns at a time, 128 rows each; both halves of the weight that belong to
// the columns go to both. In a block one thread has the copy engine fill a ring of stages in shared memory; two groups
// of four warps multiply 64 rows each, a value and its gate in the same thread, so that what leaves is the gated value
// alone. Blocks stay and go from tile to tile.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "hopper.cuh"

constexpr int ROWS = 128, COLUMNS = 128, DEPTH = 64, STAGES = 4;  // geglu_hopper.py has them too
constexpr int BAND = 8;  // of tiles below each other that are made together, for the cache
constexpr int X_BYTES = ROWS * DEPTH * 2, HALF_BYTES = COLUMNS * DEPTH * 2, STAGE_BYTES = X_BYTES + 2 * HALF_BYTES;
constexpr int OUT_BYTES = ROWS * COLUMNS * 2, BIAS_BYTES = 2 * 2 * COLUMNS * 4;

#define D64(i) D8(i), D8(i + 8), D8(i + 16), D8(i + 24), D8(i + 32), D8(i + 40), D8(i + 48), D8(i + 56)
#define R8(a, b, c, e, f, g, h, i) "%" #a ",%" #b ",%" #c ",%" #e ",%" #f ",%" #g ",%" #h ",%" #i
#define SUMS                                                                                                       \
  R8(0, 1, 2, 3, 4, 5, 6, 7) "," R8(8, 9, 10, 11, 12, 13, 14, 15) "," R8(16, 17, 18, 19, 20, 21, 22, 23) ","       \
  R8(24, 25, 26, 27, 28, 29, 30, 31) "," R8(32, 33, 34, 35, 36, 37, 38, 39) ","                                    \
  R8(40, 41, 42, 43, 44, 45, 46, 47) "," R8(48, 49, 50, 51, 52, 53, 54, 55) ","                                    \
  R8(56, 57, 58, 59, 60, 61, 62, 63) "," R8(64, 65, 66, 67, 68, 69, 70, 71) ","                                    \
  R8(72, 73, 74, 75, 76, 77, 78, 79) "," R8(80, 81, 82, 83, 84, 85, 86, 87) ","                                    \
  R8(88, 89, 90, 91, 92, 93, 94, 95) "," R8(96, 97, 98, 99, 100, 101, 102, 103) ","                                \
  R8(104, 105, 106, 107, 108, 109, 110, 111) "," R8(112, 113, 114, 115, 116, 117, 118, 119) ","                    \
  R8(120, 121, 122, 123, 124, 125, 126, 127)
#define PRODUCT(TYPE)                                                                                              \
  asm volatile("{\n.reg .pred adds;\nsetp.ne.b32 adds, %130, 0;\n"                                                 \
               "wgmma.mma_async.sync.aligned.m64n256k16.f32." TYPE "." TYPE " {" SUMS "}, %128, %129, adds, 1, 1,"  \
               " 0, 0;\n}"                                                                                         \
               : D64(0), D64(64)                                                                                   \
               : "l"(a), "l"(b), "r"(adds))

// d = a b (+ d, if `adds`) for 64 rows and 256 columns, begun.
template <typename T>
__device__ inline void product(float (&d)[128], size_t a, size_t b, int adds);
template <>
__device__ inline void product<__half>(float (&d)[128], size_t a, size_t b, int adds) {
  PRODUCT("f16");
}
template <>
__device__ inline void product<__nv_bfloat16>(float (&d)[128], size_t a, size_t b, int adds) {
  PRODUCT("bf16");
}

__device__ inline float2 two(const __half* p) { return __half22float2(*reinterpret_cast<const __half2*>(p)); }
__device__ inline float2 two(const __nv_bfloat16* p) {
  return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(p));
}
__device__ inline void round(__half2& to, float x, float y) { to = __floats2half2_rn(x, y); }
__device__ inline void round(__nv_bfloat162& to, float x, float y) { to = __floats2bfloat162_rn(x, y); }
template <typename T>
struct PairOf;
template <>
struct PairOf<__half> {
  using type = __half2;
};
template <>
struct PairOf<__nv_bfloat16> {
  using type = __nv_bfloat162;
};

// x times the normal distribution's Phi(x). The logarithm of Phi(-|x|) to the base 2 is a polynomial, fitted for the
// least relative error: Phi is off by 3e-6 of itself for |x| < 4.5 and by 6e-5 up to 7; beyond, the product is 0 in
// fp16. This takes half the instructions of erff, and it is they that this kernel waits for.
__device__ inline float gelu(float x) {
  const float size = fabsf(x);
  float log2 = -1.8008147435466526e-06f;
  log2 = fmaf(log2, size, 6.100791142671369e-05f);
  log2 = fmaf(log2, size, -0.0009265975677408278f);
  log2 = fmaf(log2, size, 0.00849528331309557f);
  log2 = fmaf(log2, size, -0.05393991246819496f);
  log2 = fmaf(log2, size, -0.45847922563552856f);
  log2 = fmaf(log2, size, -1.1512471437454224f);
  log2 = fmaf(log2, size, -0.9999954700469971f);
  float tail;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(tail) : "f"(log2));
  return fmaf(-size, tail, fmaxf(x, 0.0f));
}

// templates: the tensor maps of x, weight and out, but for their addresses, which are put into `maps`, 3 for each block.
template <typename T>
__device__ void linear_geglu(const T* x, const T* weight, const T* bias, const unsigned char* templates, T* out,
                             unsigned char* maps, int rows, int depth, int width) {
  extern __shared__ __align__(1024) unsigned char memory[];  // nothing else is shared, so that it is aligned
  float* biases = reinterpret_cast<float*>(memory + STAGES * STAGE_BYTES + OUT_BYTES);
  unsigned char* map_copies = reinterpret_cast<unsigned char*>(biases) + BIAS_BYTES;
  Ring<STAGES, STAGE_BYTES> ring(shared_address(memory), shared_address(map_copies + 3 * MAP_BYTES));
  const unsigned rank = blockIdx.x % 2;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, thread = threadIdx.x % 128;
  if (ring.memory % 1024 != 0) __trap();
  maps += size_t(blockIdx.x) * 3 * MAP_BYTES;
  const unsigned char* map_of_weight = maps + MAP_BYTES;
  const unsigned char* map_of_out = maps + 2 * MAP_BYTES;

  if (warp == 0) {
    const void* addresses[] = {x, weight, out};
    make_maps(maps, templates, map_copies, addresses, 3);
  }
  if (threadIdx.x == 32) ring.make_barriers(4);  // two groups of two blocks
  __syncthreads();
  meet_other_block();
  see_maps(maps, 3);

  const int down = (rows + 2 * ROWS - 1) / (2 * ROWS), across = (width + COLUMNS - 1) / COLUMNS;
  const int tiles = down * across, steps = (depth + DEPTH - 1) / DEPTH;
  const auto place = [&](int tile, int& row, int& column) {
    const int first = tile / (BAND * across) * BAND, index = tile - first * across, high = min(BAND, down - first);
    row = ((first + index % high) * 2 + rank) * ROWS;
    column = index / high * COLUMNS;
  };

  if (warp < 4) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    for (int tile = blockIdx.x / 2; threadIdx.x == 0 && tile < tiles; tile += gridDim.x / 2) {
      int row, column;
      place(tile, row, column);
      for (int k = 0; k < steps; k++, ring.next()) {
        const unsigned to = ring.here(), ready = ring.full();
        ring.wait_to_fill();
        load(to, maps, k * DEPTH, row, ready);
        load_for_both(to + X_BYTES + rank * HALF_BYTES, map_of_weight, k * DEPTH, column + rank * width, ready);
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const int group = warp / 4 - 1;
    const unsigned staged = ring.memory + STAGES * STAGE_BYTES + group * (OUT_BYTES / 2);
    float* its_biases = biases + group * 2 * COLUMNS;
    const int its_column = thread % 4 * 2, its_row = thread / 32 * 16 + lane / 4;
    float d[128];
    for (int tile = blockIdx.x / 2; tile < tiles; tile += gridDim.x / 2) {
      int row, column, last = 0;
      place(tile, row, column);
      const int biased = column + thread % 64 * 2;  // 64 threads load the values' biases, 64 the gates'
      float2 pair = make_float2(0.0f, 0.0f);
      if (biased < width) pair = two(bias + (thread < 64 ? 0 : width) + biased);
      for (int k = 0; k < steps; k++, ring.next()) {
        ring.wait_to_read();
        const unsigned from = ring.here();
        const size_t a = matrix(from + group * 64 * DEPTH * 2), b = matrix(from + X_BYTES);
        begin_products();
#pragma unroll
        for (int i = 0; i < DEPTH / 16; i++) product<T>(d, a + 2 * i, b + 2 * i, (k | i) != 0);
        commit_products();
        if (k > 0) {
          wait_products<1>();
          if (thread < 2) arrive_at(ring.empty(last), thread);
        }
        last = ring.stage;
      }
      wait_products<0>();
      if (thread < 2) arrive_at(ring.empty(last), thread);
      if (thread == 0) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");  // the last tile's store
      *reinterpret_cast<float2*>(its_biases + thread * 2) = pair;
      group_barrier(group);
#pragma unroll
      for (int j = 0; j < 16; j++) {
        const float2 more = *reinterpret_cast<const float2*>(its_biases + j * 8 + its_column);
        const float2 more_gate = *reinterpret_cast<const float2*>(its_biases + COLUMNS + j * 8 + its_column);
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const float* values = d + j * 4 + 2 * i;
          const float* gates = values + 64;
          const int r = its_row + 8 * i, swizzled = (j % 8 * 16 + its_column * 2) ^ (r % 8 * 16);
          typename PairOf<T>::type result;
          round(result, (values[0] + more.x) * gelu(gates[0] + more_gate.x),
                (values[1] + more.y) * gelu(gates[1] + more_gate.y));
          asm volatile("st.shared.b32 [%0], %1;" ::"r"(staged + j / 8 * 64 * 128 + r * 128 + swizzled),
                       "r"(reinterpret_cast<const unsigned&>(result))
                       : "memory");
        }
      }
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
      group_barrier(group);
      const int first = row + group * 64;
      if (thread == 0 && first < rows) {
        store(map_of_out, staged, column, first);
        if (column + 64 < width) store(map_of_out, staged + 64 * 128, column + 64, first);
        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
      }
    }
    if (thread == 0) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
  }
  meet_other_block();  // until nothing arrives at a barrier of this block any more
}

#define ENTRY(NAME, T)                                                                                             \
  extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(384, 1)                                   \
      linear_geglu_##NAME(const T* x, const T* weight, const T* bias, const unsigned char* templates, T* out,            \
                          unsigned char* maps, int rows, int depth, int width) {                                         \
    linear_geglu<T>(x, weight, bias, templates, out, maps, rows, depth, width);                                    \
  }

ENTRY(float16, __half)
ENTRY(bfloat16, __nv_bfloat16)
