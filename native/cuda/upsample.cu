// The four phases of an enlarged map into their places: phases (images, height + 1, width + 1, 4, channels) and a bias
// (channels,) -> out (images, 2 height, 2 width, channels), whose pixel (2i + a, 2j + b) is phase 2a + b of (i + a, j + b).
#include "number.cuh"

// A thread moves LOADS pieces of WIDE numbers, all read before the first is written. Channels are a multiple of WIDE.
template <typename T>
__device__ void interleave(const T* phases, const T* bias, T* out, unsigned images, unsigned height, unsigned width,
                           unsigned channels) {
  constexpr unsigned wide = WIDE<T>, LOADS = 4;
  const unsigned columns = channels / wide, pieces = images * 4 * height * width * columns;
  const unsigned first = blockIdx.x * blockDim.x * LOADS + threadIdx.x;
  Pack<T, wide> some[LOADS];
#pragma unroll
  for (unsigned k = 0; k < LOADS; k++) {
    const unsigned index = first + k * blockDim.x;
    if (index < pieces) {
      const unsigned pixel = index / columns, column = index % columns * wide;
      const unsigned line = pixel / (2 * width), x = pixel % (2 * width), image = line / (2 * height);
      const unsigned y = line % (2 * height), a = y % 2, b = x % 2;
      const size_t from = (size_t(image) * (height + 1) + y / 2 + a) * (width + 1) + x / 2 + b;
      some[k] = *reinterpret_cast<const Pack<T, wide>*>(phases + (from * 4 + 2 * a + b) * channels + column);
    }
  }
#pragma unroll
  for (unsigned k = 0; k < LOADS; k++) {
    const unsigned index = first + k * blockDim.x;
    if (index < pieces) {
      const auto more = *reinterpret_cast<const Pack<T, wide>*>(bias + index % columns * wide);
      for (int i = 0; i < wide; i++) some[k].at[i] = T(float(some[k].at[i]) + float(more.at[i]));
      *reinterpret_cast<Pack<T, wide>*>(out + size_t(index) * wide) = some[k];
    }
  }
}

#define ENTRY(NAME, T)                                                                                             \
  extern "C" __global__ void interleave_##NAME(const T* phases, const T* bias, T* out, int images, int height,     \
                                               int width, int channels) {                                          \
    interleave<T>(phases, bias, out, images, height, width, channels);                                             \
  }

FOR_EACH_TYPE(ENTRY)
