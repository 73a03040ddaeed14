#include "convolution.h"

#include <algorithm>
#include <vector>

#include "isa.h"
#include "matmul.h"
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

template <class Real>
void convolve(const Convolution& conv, const Real* x, const Weights<Real>& weights, const Real* bias, Real* out) {
  if (conv.out_pixels() == 0) return;
  if (conv.kernel == 1 && conv.stride == 1 && conv.padding == 0) {
    return multiply<Real>({
        .rows = conv.out_pixels(),
        .columns = conv.out_channels,
        .depth = conv.channels,
        .x = x,
        .x_row = conv.channels,
        .weights = weights.plain,
        .weight_row = conv.channels,
        .panels = weights.packed,
        .bias = bias,
        .out = out,
        .out_row = conv.out_channels,
    });
  }
  const bool fits = conv.kernel == 3 && conv.stride == 1;
  Convolution one = conv;
  one.batch = 1;  // a picture must not depend on how many others are in its batch
  // The other algorithm has several products in each lane.
  const int64_t work = kPerLane<Real> * winograd_work(one, weights.packed != nullptr);
  if (fits && work < one.kernel * one.kernel * one.out_pixels()) {
    return convolve_by_winograd(conv, x, weights, bias, out);
  }
  convolve_directly(conv, x, weights, bias, out);
}

template <class Real>
void convolve_directly(const Convolution& conv, const Real* x, const Weights<Real>& weights, const Real* bias, Real* out) {
  const Kernels<Real>& kernel = kernels<Real>();
  constexpr int64_t per = kPerLane<Real>;
  int64_t columns;
  kernel.panel_columns(&columns);
  const int64_t taps = conv.kernel * conv.kernel, channels = conv.channels, out_channels = conv.out_channels;
  const int64_t lanes = channels / per;
  const int64_t height = conv.out_height(), width = conv.out_width(), pixels = conv.out_pixels();
  const int64_t panels = (out_channels + columns - 1) / columns;
  const int64_t blocks = (pixels + kPixels - 1) / kPixels;
  const bool ready = weights.packed != nullptr;
  const int64_t runs = ready ? weights.packing.runs : (lanes + kMostDepth - 1) / kMostDepth;
  // For each thread a run of a panel, and sums (pixels, columns).
  const int64_t own = (kMostDepth + kPixels) * columns;
  const Scratch scratch(pool().threads() * own);
  const std::vector<float> nothing(lanes);

  pool().parallel_for(panels * blocks, [&](int64_t unit, int worker) {
    // All panels of one block follow each other, so that its pixels stay in the cache.
    const int64_t block = unit / panels, panel = unit % panels;
    const int64_t first = pixels * block / blocks, count = pixels * (block + 1) / blocks - first;
    const Lane* rows[kMostTaps * kPixels];
    int64_t image = first / (height * width), row = first / width % height, column = first % width;
    for (int64_t i = 0; i < count; ++i) {
      const Real* picture = x + image * conv.height * conv.width * channels;
      for (int64_t tap = 0, y = row * conv.stride - conv.padding, v = 0; v < conv.kernel; ++v, ++y) {
        for (int64_t z = column * conv.stride - conv.padding, h = 0; h < conv.kernel; ++h, ++z, ++tap) {
          const bool inside = y >= 0 && y < conv.height && z >= 0 && z < conv.width;
          const Real* pixel = picture + (y * conv.width + z) * channels;
          rows[tap * count + i] = inside ? reinterpret_cast<const Lane*>(pixel) : nothing.data();
        }
      }
      // Divisions at each pixel would take as long as the products of few channels.
      if (++column == width) {
        column = 0;
        if (++row == height) row = 0, ++image;
      }
    }
    const int64_t here = panel * columns, valid = std::min(columns, out_channels - here);
    Real* const results = out + first * out_channels + here;
    for (int64_t i = 0; i < count; ++i) __builtin_prefetch(results + i * out_channels, 1);  // written at the end
    float* const packed = scratch.data() + worker * own;
    float* const sums = packed + kMostDepth * columns;
    const float* next = ready ? weights.packed + panel * weights.packing.panel_size() : packed;
    for (int64_t run = 0; run < runs; ++run) {
      const int64_t from = lanes * run / runs, k = lanes * (run + 1) / runs - from;
      for (int64_t tap = 0; tap < taps; ++tap) {
        const float* const part = next;
        if (ready) {
          const bool last = panel + 1 == panels && run + 1 == runs && tap + 1 == taps;
          next += last ? 0 : k * columns;
        } else {
          const Real* raw = weights.plain + (here * taps + tap) * channels + from * per;
          kernel.pack_lanes(reinterpret_cast<const Lane*>(raw), taps * lanes, valid, k, packed);
        }
        kernel.product_of_lanes(rows + tap * count, count, from, part, k, tap + run > 0, next, 4 * (next - part), sums);
      }
    }
    float start[kMostColumns] = {};
    for (int64_t j = 0; bias != nullptr && j < valid; ++j) start[j] = as_float(bias[here + j]);
    kernel.put_sums(sums, count, start, valid, results, out_channels);
  });
}

template void convolve(const Convolution&, const float*, const Weights<float>&, const float*, float*);
template void convolve(const Convolution&, const BFloat16*, const Weights<BFloat16>&, const BFloat16*, BFloat16*);

}  // namespace mlxdiff
