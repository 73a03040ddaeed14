// The four phases of an enlarged map into their places: phases (images, height + 1, width + 1, 4, channels) and a bias
// (channels,) -> out (images, 2 height, 2 width, channels), whose pixel (2i + a, 2j + b) is phase 2a + b of (i + a, j + b).
#include "number.cuh"

// Channels are a multiple of WIDE.
template <typename T>
__device__ void interleave(const T* phases, const T* bias, T* out, unsigned images, unsigned height, unsigned width,
                           unsigned channels) {
  const unsigned columns = channels / WIDE<T>;
  const auto read = [&](unsigned index) {
    const unsigned pixel = index / columns, column = index % columns * WIDE<T>;
    const unsigned line = pixel / (2 * width), x = pixel % (2 * width), image = line / (2 * height);
    const unsigned y = line % (2 * height), a = y % 2, b = x % 2;
    const size_t from = (size_t(image) * (height + 1) + y / 2 + a) * (width + 1) + x / 2 + b;
    return phases + (from * 4 + 2 * a + b) * channels + column;
  };
  const auto add = [&](Pack<T, WIDE<T>> piece, unsigned index) {
    const auto more = *reinterpret_cast<const Pack<T, WIDE<T>>*>(bias + index % columns * WIDE<T>);
    for (int i = 0; i < WIDE<T>; i++) piece.at[i] = T(float(piece.at[i]) + float(more.at[i]));
    return piece;
  };
  move(out, images * 4 * height * width * columns, read, add);
}

#define ENTRY(NAME, T)                                                                                             \
  extern "C" __global__ void interleave_##NAME(const T* phases, const T* bias, T* out, int images, int height,     \
                                               int width, int channels) {                                          \
    interleave<T>(phases, bias, out, images, height, width, channels);                                             \
  }

FOR_EACH_TYPE(ENTRY)
