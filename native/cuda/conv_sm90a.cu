// The convolution of x (images, height, width, channels) with weight (outputs, side, side, channels), in fp32, on the
// tensor cores of compute capability 9.0: out (images, height, width, outputs), plus bias. The stride is 1, and outside
// of x are zeros; `side` is odd.
//
// Tensor cores read TF32, the first 11 of a number's 24 bits. A number is the sum of that and of a rest that TF32 has
// 11 bits of, so three products of TF32 are one of 22 bits: x w = x' w' + x' w" + x" w'. Weights come with their rests
// (`rests`); those of x are computed here.
//
// A block makes a tile of 8 x 16 pixels and 128 outputs at a time: a product whose depth is, for each tap of the weight,
// the channels of the tile moved by the tap. One thread has the copy engine fill a ring of stages in shared memory, which
// also puts zeros where the tile leaves the map; two groups of four warps multiply 64 pixels each.
#include "hopper.cuh"

constexpr int TILE_HEIGHT = 8, TILE_WIDTH = 16, OUTPUTS = 128, DEPTH = 32, STAGES = 4;  // fp32_hopper.py has them too
constexpr int X_BYTES = TILE_HEIGHT * TILE_WIDTH * DEPTH * 4, WEIGHT_BYTES = OUTPUTS * DEPTH * 4;
constexpr int STAGE_BYTES = X_BYTES + 2 * WEIGHT_BYTES;

// d = a b (+ d, if `adds`) for 64 rows, 128 columns and a depth of 8, begun. Of 16 rows a warp's thread has, in a, rows
// lane / 4 and 8 below, and in these columns lane % 4 and 4 to the right.
__device__ inline void product(float (&d)[64], const unsigned (&a)[4], size_t b, int adds) {
  asm volatile(
      "{\n.reg .pred adds;\nsetp.ne.b32 adds, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k8.f32.tf32.tf32 {"
      "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,"
      "%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,"
      "%57,%58,%59,%60,%61,%62,%63}, {%64,%65,%66,%67}, %68, adds, 1, 1;\n}"
      : D8(0), D8(8), D8(16), D8(24), D8(32), D8(40), D8(48), D8(56)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(adds));
}

__device__ inline unsigned shared_word(unsigned address) {
  unsigned word;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(address));
  return word;
}

// What TF32 leaves of a number, rounded to TF32.
__device__ inline unsigned rest(unsigned x) {
  unsigned rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(x) - __uint_as_float(x & 0xffffe000u)));
  return rounded;
}

// templates: the tensor maps of x, weight and rests, but for their addresses, which are put into `maps`, 3 a block.
extern "C" __global__ void __launch_bounds__(384, 1)
    conv_float32(const float* x, const float* weight, const float* rests, const float* bias,
                 const unsigned char* templates, float* out, unsigned char* maps, int images, int height, int width,
                 int channels, int outputs, int side) {
  extern __shared__ __align__(1024) unsigned char memory[];  // nothing else is shared, so that it is aligned
  unsigned char* map_copies = memory + STAGES * STAGE_BYTES;
  Ring<STAGES, STAGE_BYTES> ring(shared_address(memory), shared_address(map_copies + 3 * MAP_BYTES));
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, thread = threadIdx.x % 128;
  if (ring.memory % 1024 != 0) __trap();
  maps += size_t(blockIdx.x) * 3 * MAP_BYTES;
  if (warp == 0) {
    const void* addresses[] = {x, weight, rests};
    make_maps(maps, templates, map_copies, addresses, 3);
  }
  if (threadIdx.x == 32) ring.make_barriers(2);
  __syncthreads();
  see_maps(maps, 3);

  const int across = (width + TILE_WIDTH - 1) / TILE_WIDTH, down = (height + TILE_HEIGHT - 1) / TILE_HEIGHT;
  const int columns = (outputs + OUTPUTS - 1) / OUTPUTS, tiles = images * down * across * columns;
  const int parts = (channels + DEPTH - 1) / DEPTH, steps = side * side * parts;
  struct Place {
    int column, x, y, image;
  };
  const auto place = [&](int tile) {
    const int patch = tile / columns, line = patch / across;
    return Place{tile % columns * OUTPUTS, patch % across * TILE_WIDTH, line % down * TILE_HEIGHT, line / down};
  };

  if (warp < 4) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    for (int tile = blockIdx.x; threadIdx.x == 0 && tile < tiles; tile += gridDim.x) {
      const Place at = place(tile);
      for (int k = 0; k < steps; k++, ring.next()) {
        const int tap = k / parts, channel = k % parts * DEPTH;
        const unsigned to = ring.here(), ready = ring.full();
        ring.wait_to_fill();
        load(to, maps, channel, at.x + tap % side - side / 2, at.y + tap / side - side / 2, at.image, ready);
        load(to + X_BYTES, maps + MAP_BYTES, channel, tap, at.column, 0, ready);
        load(to + X_BYTES + WEIGHT_BYTES, maps + 2 * MAP_BYTES, channel, tap, at.column, 0, ready);
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const int group = warp / 4 - 1, row = group * 64 + thread / 32 * 16 + lane / 4;
    float sums[64], d[64];
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      const Place at = place(tile);
#pragma unroll
      for (int i = 0; i < 64; i++) sums[i] = 0.0f;
      for (int k = 0; k < steps; k++, ring.next()) {
        ring.wait_to_read();
        const unsigned from = ring.here(), here = from + row * 128 + lane % 4 * 4;
        const size_t whole = matrix(from + X_BYTES), left = matrix(from + X_BYTES + WEIGHT_BYTES);
        unsigned a[DEPTH / 8][4], rests_of_a[DEPTH / 8][4];
#pragma unroll
        for (int i = 0; i < DEPTH / 8; i++) {
#pragma unroll
          for (int j = 0; j < 4; j++) {
            a[i][j] = shared_word((here ^ ((2 * i + j / 2) ^ (row % 8)) * 16) + j % 2 * 8 * 128);
            rests_of_a[i][j] = rest(a[i][j]);
          }
        }
        begin_products();
#pragma unroll
        for (int i = 0; i < DEPTH / 8; i++) {
          product(d, rests_of_a[i], whole + 2 * i, i > 0);
          product(d, a[i], left + 2 * i, 1);
          product(d, a[i], whole + 2 * i, 1);
        }
        commit_products();
        wait_products<0>();
        if (thread == 0) arrive(ring.empty(ring.stage));
        // Tensor cores drop bits as they add up, so they do it for a short while only.
#pragma unroll
        for (int i = 0; i < 64; i++) sums[i] += d[i];
      }
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int r = row + 8 * i, y = at.y + r / TILE_WIDTH, px = at.x + r % TILE_WIDTH;
        if (y >= height || px >= width) continue;
        float* to = out + ((size_t(at.image) * height + y) * width + px) * outputs;
#pragma unroll
        for (int j = 0; j < 16; j++) {
          const int column = at.column + j * 8 + lane % 4 * 2;
          const float first = sums[j * 4 + 2 * i], second = sums[j * 4 + 2 * i + 1];
          if (outputs % 2 == 0 && column < outputs) {
            const float2 more = *reinterpret_cast<const float2*>(bias + column);
            *reinterpret_cast<float2*>(to + column) = make_float2(first + more.x, second + more.y);
          } else {
            if (column < outputs) to[column] = first + bias[column];
            if (column + 1 < outputs) to[column + 1] = second + bias[column + 1];
          }
        }
      }
    }
  }
}
