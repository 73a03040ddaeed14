#include "convolution.h"

#include <algorithm>
#include <vector>

#include "isa.h"
#include "pool.h"
#include "scratch.h"

namespace mlxdiff {
namespace {

// Pixels that a thread takes at a time with one panel of weights.
constexpr int64_t kPixels = 256;
// Most channels at once, so that their weights stay in the first-level cache.
constexpr int64_t kMostDepth = 256;
constexpr int64_t kMostTaps = 9;

}  // namespace

void convolve(const Convolution& conv, const float* x, const float* weights, const float* bias, float* out) {
  const bool fits = conv.kernel == 3 && conv.stride == 1;
  if (fits && winograd_work(conv) < conv.kernel * conv.kernel * conv.out_pixels()) {
    return convolve_by_winograd(conv, x, weights, bias, out);
  }
  convolve_directly(conv, x, weights, bias, out);
}

void convolve_directly(const Convolution& conv, const float* x, const float* weights, const float* bias, float* out) {
  const Kernels& kernel = kernels();
  int64_t columns;
  kernel.panel_columns(&columns);
  const int64_t taps = conv.kernel * conv.kernel, channels = conv.channels, out_channels = conv.out_channels;
  const int64_t height = conv.out_height(), width = conv.out_width(), pixels = conv.out_pixels();
  const int64_t panels = (out_channels + columns - 1) / columns;
  const int64_t blocks = (pixels + kPixels - 1) / kPixels;
  const int64_t runs = (channels + kMostDepth - 1) / kMostDepth;
  // For each thread a run of a panel, and sums (pixels, columns).
  const int64_t own = (kMostDepth + kPixels) * columns;
  const Scratch scratch(pool().threads() * own);
  const std::vector<float> nothing(channels);

  pool().parallel_for(panels * blocks, [&](int64_t unit, int worker) {
    const int64_t panel = unit / blocks, block = unit % blocks;
    const int64_t first = pixels * block / blocks, count = pixels * (block + 1) / blocks - first;
    const float* rows[kMostTaps * kPixels];
    for (int64_t i = 0; i < count; ++i) {
      const int64_t pixel = first + i, image = pixel / (height * width);
      const int64_t top = pixel / width % height * conv.stride - conv.padding;
      const int64_t left = pixel % width * conv.stride - conv.padding;
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int64_t row = top + tap / conv.kernel, column = left + tap % conv.kernel;
        const bool inside = row >= 0 && row < conv.height && column >= 0 && column < conv.width;
        rows[tap * count + i] =
            inside ? x + ((image * conv.height + row) * conv.width + column) * channels : nothing.data();
      }
    }
    const int64_t here = panel * columns, valid = std::min(columns, out_channels - here);
    float* const packed = scratch.data() + worker * own;
    float* const sums = packed + kMostDepth * columns;
    for (int64_t tap = 0; tap < taps; ++tap) {
      for (int64_t run = 0; run < runs; ++run) {
        const int64_t from = channels * run / runs, k = channels * (run + 1) / runs - from;
        kernel.pack_panel(weights + (here * taps + tap) * channels + from, taps * channels, valid, k, packed);
        kernel.product(rows + tap * count, count, from, packed, k, tap + run > 0, sums);
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      float* to = out + (first + i) * out_channels + here;
      for (int64_t j = 0; j < valid; ++j) to[j] = sums[i * columns + j] + (bias != nullptr ? bias[here + j] : 0);
    }
  });
}

}  // namespace mlxdiff
