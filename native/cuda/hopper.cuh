// What kernels for compute capability 9.0 alone have in common: barriers, the copy engine and products, as PTX has them.
#pragma once

constexpr int MAP_BYTES = 128;  // of a tensor map

__device__ inline unsigned shared_address(const void* p) { return unsigned(__cvta_generic_to_shared(p)); }

__device__ inline void wait(unsigned barrier, unsigned parity) {
  asm volatile(
      "{\n.reg .pred done;\nagain:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra again;\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

__device__ inline void expect(unsigned barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ inline void arrive(unsigned barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// At the same barrier of another block of the cluster.
__device__ inline void arrive_at(unsigned barrier, unsigned block) {
  asm volatile(
      "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(barrier),
      "r"(block)
      : "memory");
}

__device__ inline void group_barrier(int group) { asm volatile("bar.sync %0, 128;" ::"r"(1 + group) : "memory"); }

__device__ inline void meet_other_block() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

// A ring of stages in shared memory, which one thread has the copy engine fill and others read: each goes around with a
// ring of its own. `full` barriers are for what the copy engine brings, `empty` ones for readers to give a stage back.
template <int STAGES, int STAGE_BYTES>
struct Ring {
  const unsigned memory, full_barriers, empty_barriers;
  int stage = 0;
  unsigned parity = 0;  // of the rounds that are done

  __device__ Ring(unsigned memory, unsigned barriers)
      : memory(memory), full_barriers(barriers), empty_barriers(barriers + 8 * STAGES) {}

  // By one thread of the block, once: `readers` give each stage back.
  __device__ void make_barriers(int readers) const {
    for (int s = 0; s < STAGES; s++) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(full_barriers + 8 * s));
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(empty_barriers + 8 * s), "r"(readers));
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }

  __device__ unsigned here() const { return memory + stage * STAGE_BYTES; }
  __device__ unsigned full() const { return full_barriers + 8 * stage; }
  __device__ unsigned empty(int stage) const { return empty_barriers + 8 * stage; }

  __device__ void next() {
    stage = (stage + 1) % STAGES;
    if (stage == 0) parity ^= 1;
  }
  // Until the stage is given back; it is `full` with so many bytes.
  __device__ void wait_to_fill() const {
    wait(empty(stage), parity ^ 1);
    expect(full(), STAGE_BYTES);
  }
  __device__ void wait_to_read() const { wait(full(), parity); }
};

// By a whole warp: writes `count` tensor maps to `maps`, made of templates and addresses; `copies` is shared memory.
__device__ inline void make_maps(unsigned char* maps, const unsigned char* templates, unsigned char* copies,
                                 const void* const* addresses, int count) {
  const int lane = threadIdx.x % 32;
  for (int i = lane; i < count * MAP_BYTES / 4; i += 32) {
    reinterpret_cast<unsigned*>(copies)[i] = reinterpret_cast<const unsigned*>(templates)[i];
  }
  __syncwarp();
  if (lane < count) {
    asm volatile("tensormap.replace.tile.global_address.shared::cta.b1024.b64 [%0], %1;" ::"r"(
                     shared_address(copies + lane * MAP_BYTES)),
                 "l"(addresses[lane])
                 : "memory");
  }
  __syncwarp();
  for (int i = 0; i < count; i++) {
    asm volatile(
        "tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [%0], [%1], 128;" ::"l"(
            maps + i * MAP_BYTES),
        "r"(shared_address(copies + i * MAP_BYTES))
        : "memory");
  }
}

// By every thread that uses the maps, behind a barrier of the block.
__device__ inline void see_maps(const unsigned char* maps, int count) {
  for (int i = 0; i < count; i++) {
    asm volatile("fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" ::"l"(maps + i * MAP_BYTES) : "memory");
  }
}

__device__ inline void load(unsigned to, const void* map, int column, int row, unsigned barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::
          "r"(to),
      "l"(map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}

__device__ inline void load(unsigned to, const void* map, int channel, int x, int y, int image, unsigned barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}],"
      " [%6];" ::"r"(to),
      "l"(map), "r"(channel), "r"(x), "r"(y), "r"(image), "r"(barrier)
      : "memory");
}

__device__ inline void load_for_both(unsigned to, const void* map, int column, int row, unsigned barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster"
      " [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
      "l"(map), "r"(column), "r"(row), "r"(barrier), "h"(static_cast<unsigned short>(3))
      : "memory");
}

__device__ inline void store(const void* map, unsigned from, int column, int row) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map),
               "r"(column), "r"(row), "r"(from)
               : "memory");
}

// A matrix of rows of 128 bytes, swizzled as the copy engine does, for a product.
__device__ inline size_t matrix(unsigned address) {
  return size_t((address & 0x3ffff) >> 4) | size_t(1) << 16 | size_t(64) << 32 | size_t(1) << 62;
}

// Eight sums of a product, as its instruction names them.
#define D8(i)                                                                                                      \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]),      \
      "+f"(d[i + 7])

__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ inline void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int LEFT>
__device__ inline void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}
