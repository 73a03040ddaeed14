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
    // All panels of one block follow each other, so that its pixels stay in the cache.
    const int64_t block = unit / panels, panel = unit % panels;
    const int64_t first = pixels * block / blocks, count = pixels * (block + 1) / blocks - first;
    const float* rows[kMostTaps * kPixels];
    int64_t image = first / (height * width), row = first / width % height, column = first % width;
    for (int64_t i = 0; i < count; ++i) {
      const float* picture = x + image * conv.height * conv.width * channels;
      for (int64_t tap = 0, y = row * conv.stride - conv.padding, v = 0; v < conv.kernel; ++v, ++y) {
        for (int64_t z = column * conv.stride - conv.padding, h = 0; h < conv.kernel; ++h, ++z, ++tap) {
          const bool inside = y >= 0 && y < conv.height && z >= 0 && z < conv.width;
          rows[tap * count + i] = inside ? picture + (y * conv.width + z) * channels : nothing.data();
        }
      }
      // Divisions at each pixel would take as long as the products of few channels.
      if (++column == width) {
        column = 0;
        if (++row == height) row = 0, ++image;
      }
    }
    const int64_t here = panel * columns, valid = std::min(columns, out_channels - here);
    float* const results = out + first * out_channels + here;
    for (int64_t i = 0; i < count; ++i) __builtin_prefetch(results + i * out_channels, 1);  // written at the end
    float* const packed = scratch.data() + worker * own;
    float* const sums = packed + kMostDepth * columns;
    for (int64_t tap = 0; tap < taps; ++tap) {
      for (int64_t run = 0; run < runs; ++run) {
        const int64_t from = channels * run / runs, k = channels * (run + 1) / runs - from;
        kernel.pack_panel(weights + (here * taps + tap) * channels + from, taps * channels, valid, k, packed);
        kernel.product(rows + tap * count, count, from, packed, k, tap + run > 0, sums);
      }
    }
    float start[kMostColumns] = {};
    if (bias != nullptr) std::copy_n(bias + here, valid, start);
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t j = 0; j < valid; ++j) results[i * out_channels + j] = sums[i * columns + j] + start[j];
    }
  });
}

}  // namespace mlxdiff
