// Group normalization as in group_norm.cu, for compute capability 9: a cluster of blocks keeps a slab (the channels of
// some groups, of one image) in its blocks' shared memory, so that the map is read once. What a slab has more than
// fits is read again, mostly from the L2 cache.
#include "number.cuh"

constexpr int MOST_COLUMNS = 64, MOST_GROUPS = 16;  // of a slab
constexpr int BATCH = 4;  // loads in flight before the first is used

__device__ inline unsigned shared_address(const void* pointer) { return unsigned(__cvta_generic_to_shared(pointer)); }

// Copies 16 bytes to shared memory; the thread itself sees them after `wait_for_copies`.
__device__ inline void copy_async(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

// For all warps of the cluster; a warp that has written to another block arrives by `cluster_arrive_released`.
__device__ inline void cluster_arrive() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
__device__ inline void cluster_arrive_released() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ inline void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// Writes to where `to` lies in the shared memory of another block of the cluster.
__device__ inline void store_remote(float* to, unsigned rank, float value) {
  unsigned there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(to)), "r"(rank));
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(there), "f"(value) : "memory");
}

// How a thread's numbers lie in memory: it has `count` rows' WIDE channels, `step` apart, and the first `here` of them
// in shared memory, `stride` apart.
template <typename T>
struct Rows {
  const T* from;
  const Pack<T, WIDE<T>>* mine;
  size_t step;
  int stride, kept, here, count;
};

template <bool SILU, typename T>
__device__ void write(const Rows<T>& rows, T* to, const float* centre, const float* gain, const float* offset) {
  using Wide = Pack<T, WIDE<T>>;
  const auto finish = [&](Wide some, int k) {
    for (int i = 0; i < WIDE<T>; i++) {
      const float y = (float(some.at[i]) - centre[i]) * gain[i] + offset[i];
      some.at[i] = T(SILU ? silu(y) : y);
    }
    *reinterpret_cast<Wide*>(to + k * rows.step) = some;
  };
#pragma unroll 1
  for (int k = rows.kept; k < rows.count; k += BATCH) {
    Wide some[BATCH];
#pragma unroll
    for (int j = 0; j < BATCH; j++) {
      if (k + j < rows.count) some[j] = *reinterpret_cast<const Wide*>(rows.from + (k + j) * rows.step);
    }
#pragma unroll
    for (int j = 0; j < BATCH; j++) {
      if (k + j < rows.count) finish(some[j], k + j);
    }
  }
#pragma unroll 1
  for (int k = 0; k < rows.here; k += 2) {
    const bool two = k + 1 < rows.here;
    const Wide a = rows.mine[k * rows.stride], b = rows.mine[two ? (k + 1) * rows.stride : 0];
    finish(a, k);
    if (two) finish(b, k + 1);
  }
}

// blockIdx = (slab * BLOCKS + rank in the cluster, image). A block has a run of the image's rows, and a thread the same
// WIDE channels of every `lanes`-th of them: at most `need`, of which the first `kept` stay in shared memory. WIDE
// channels lie in two groups at most: `size`, the channels of a group, is at least WIDE. `slab` is in channels, and
// share = 1 / (rows * size).
template <typename T, int BLOCKS>
__device__ void normalize_slab(const T* x, const T* weight, const T* bias, const T* shift, T* out, int rows,
                               int channels, int size, int slab, int lanes, int need, int kept, int shifts,
                               int with_silu, float share, float eps) {
  constexpr int wide = WIDE<T>, stages = 4;
  using Wide = Pack<T, wide>;
  extern __shared__ float4 parts[];  // one a thread
  float4* totals = parts + blockDim.x;
  float2* received = reinterpret_cast<float2*>(totals + MOST_COLUMNS);  // (BLOCKS, MOST_GROUPS)
  if (BLOCKS > 1) cluster_arrive();
  const int columns = slab / wide, lane = threadIdx.x / columns, column = threadIdx.x - lane * columns;
  const int rank = blockIdx.x % BLOCKS, run = (rows + BLOCKS - 1) / BLOCKS;
  const int first = rank * run + lane, last = min(rows, (rank + 1) * run);
  int count = lane < lanes ? need : 0;
  while (count > 0 && first + (count - 1) * lanes >= last) count--;
  const int here = min(count, kept), chunk = (kept + stages - 1) / stages, stride = columns * lanes;
  const int start = blockIdx.x / BLOCKS * slab, channel = start + column * wide;
  const size_t step = size_t(lanes) * channels, picture = size_t(blockIdx.y) * rows * channels;
  const T* from = x + picture + size_t(first) * channels + channel;
  T* to = out + (from - x);
  Wide* mine = reinterpret_cast<Wide*>(received + BLOCKS * MOST_GROUPS) + threadIdx.x;
  // In stages, so that the first are added up while the others arrive.
  for (int stage = 0; stage < stages; stage++) {
    const int end = min(here, (stage + 1) * chunk);
#pragma unroll 4
    for (int k = stage * chunk; k < end; k++) copy_async(mine + k * stride, from + k * step);
    commit_copies();
  }

  // What values and their squares differ from a value of the group, so that a large mean costs no digits.
  const int head = column * wide / size, border = (head + 1) * size - column * wide;  // first channel of the next group
  const int leader = channel + border - size, follower = border < wide ? leader + size : leader;
  float pivot[wide], sum[wide] = {}, square[wide] = {};
  {
    float a = float(x[picture + leader]), b = float(x[picture + follower]);
    if (shifts > 0) {
      const T* added = shift + (shifts > 1 ? blockIdx.y * channels : 0);
      a += float(added[leader]);
      b += float(added[follower]);
      const Wide shifts_here = *reinterpret_cast<const Wide*>(added + channel);
      for (int i = 0; i < wide; i++) pivot[i] = (i < border ? a : b) - float(shifts_here.at[i]);
    } else {
      for (int i = 0; i < wide; i++) pivot[i] = i < border ? a : b;
    }
  }
  const auto add = [&](const Wide& some) {
    for (int i = 0; i < wide; i++) {
      const float off = float(some.at[i]) - pivot[i];
      sum[i] += off;
      square[i] += off * off;
    }
  };
#pragma unroll 1
  for (int k = kept; k < count; k += BATCH) {
    Wide some[BATCH];
#pragma unroll
    for (int j = 0; j < BATCH; j++) {
      if (k + j < count) some[j] = *reinterpret_cast<const Wide*>(from + (k + j) * step);
    }
#pragma unroll
    for (int j = 0; j < BATCH; j++) {
      if (k + j < count) add(some[j]);
    }
  }
#pragma unroll 1
  for (int stage = 0; stage < stages; stage++) {
    if (stage == 0) wait_for_copies<3>();
    if (stage == 1) wait_for_copies<2>();
    if (stage == 2) wait_for_copies<1>();
    if (stage == 3) wait_for_copies<0>();
    const int end = min(here, (stage + 1) * chunk);
#pragma unroll 1
    for (int k = stage * chunk; k < end; k += 2) {
      const bool two = k + 1 < end;
      const Wide a = mine[k * stride], b = mine[two ? (k + 1) * stride : 0];
      add(a);
      if (two) add(b);
    }
  }

  // A thread's sums, then a column's, a block's and the slab's, always in the same order. float4: sum and squares of
  // the group that the column begins in, and of the next.
  float4 part = {0.0f, 0.0f, 0.0f, 0.0f};
  for (int i = 0; i < wide; i++) {
    if (i < border) {
      part.x += sum[i];
      part.y += square[i];
    } else {
      part.z += sum[i];
      part.w += square[i];
    }
  }
  parts[threadIdx.x] = part;
  const Wide gains = *reinterpret_cast<const Wide*>(weight + channel);
  const Wide offsets = *reinterpret_cast<const Wide*>(bias + channel);
  __syncthreads();
  for (int c = threadIdx.x / 32; c < columns; c += blockDim.x / 32) {
    float4 total = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int l = threadIdx.x % 32; l < lanes; l += 32) {
      const float4 next = parts[l * columns + c];
      total.x += next.x;
      total.y += next.y;
      total.z += next.z;
      total.w += next.w;
    }
    for (int i = 16; i > 0; i /= 2) {
      total.x += __shfl_xor_sync(0xffffffffu, total.x, i);
      total.y += __shfl_xor_sync(0xffffffffu, total.y, i);
      total.z += __shfl_xor_sync(0xffffffffu, total.z, i);
      total.w += __shfl_xor_sync(0xffffffffu, total.w, i);
    }
    if (threadIdx.x % 32 == 0) totals[c] = total;
  }
  if (BLOCKS > 1) cluster_wait();  // the other blocks have begun
  __syncthreads();
  const int groups = slab / size;
  for (int k = threadIdx.x; k < groups * BLOCKS; k += blockDim.x) {
    const int g = k % groups, to_rank = k / groups;
    float2 total = {0.0f, 0.0f};
    for (int c = g * size / wide; c * wide < (g + 1) * size; c++) {
      const float4 next = totals[c];
      const bool begins = c * wide >= g * size;
      total.x += begins ? next.x : next.z;
      total.y += begins ? next.y : next.w;
    }
    if (BLOCKS > 1) {
      store_remote(&received[rank * MOST_GROUPS + g].x, to_rank, total.x);
      store_remote(&received[rank * MOST_GROUPS + g].y, to_rank, total.y);
    } else {
      received[g] = total;
    }
  }
  if (BLOCKS > 1) {
    if (threadIdx.x / 32 * 32 < groups * BLOCKS) {
      cluster_arrive_released();
    } else {
      cluster_arrive();
    }
    cluster_wait();
  } else {
    __syncthreads();
  }
  float2 total_here = {0.0f, 0.0f}, total_next = {0.0f, 0.0f};
  for (int r = 0; r < BLOCKS; r++) {
    const float2 a = received[r * MOST_GROUPS + head], b = received[r * MOST_GROUPS + min(head + 1, groups - 1)];
    total_here.x += a.x;
    total_here.y += a.y;
    total_next.x += b.x;
    total_next.y += b.y;
  }
  const auto scale = [&](float2 total) {
    const float mean = total.x * share;
    return float2{mean, rsqrtf(fmaxf(total.y * share - mean * mean, 0.0f) + eps)};
  };
  const float2 scale_here = scale(total_here), scale_next = scale(total_next);
  float gain[wide], offset[wide];
  for (int i = 0; i < wide; i++) {
    pivot[i] += i < border ? scale_here.x : scale_next.x;
    gain[i] = (i < border ? scale_here.y : scale_next.y) * float(gains.at[i]);
    offset[i] = float(offsets.at[i]);
  }
  const Rows<T> own = {from, mine, step, stride, kept, here, count};
  if (with_silu) {
    write<true>(own, to, pivot, gain, offset);
  } else {
    write<false>(own, to, pivot, gain, offset);
  }
}

#define SLABS(NAME, T, BLOCKS, THREADS)                                                                            \
  extern "C" __global__ void __cluster_dims__(BLOCKS, 1, 1) __launch_bounds__(THREADS, 512 / THREADS)              \
      group_norm_slabs_##BLOCKS##_##THREADS##_##NAME(                                                              \
          const T* x, const T* weight, const T* bias, const T* shift, T* out, int rows, int channels, int size,    \
          int slab, int lanes, int need, int kept, int shifts, int share, int with_silu, int eps) {                \
    normalize_slab<T, BLOCKS>(x, weight, bias, shift, out, rows, channels, size, slab, lanes, need, kept, shifts,  \
        with_silu, __int_as_float(share), __int_as_float(eps));                                                    \
  }
#define ENTRY(NAME, T)                                                                                             \
  SLABS(NAME, T, 1, 256)                                                                                           \
  SLABS(NAME, T, 2, 256)                                                                                           \
  SLABS(NAME, T, 4, 256)                                                                                           \
  SLABS(NAME, T, 8, 256)                                                                                           \
  SLABS(NAME, T, 1, 512)                                                                                           \
  SLABS(NAME, T, 2, 512)

FOR_EACH_TYPE(ENTRY)
