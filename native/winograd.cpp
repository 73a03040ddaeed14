// Winograd's convolution F(4x4, 3x3): 36 products, one a position, make a tile of 4x4 pixels, where sums over taps take
// 144.
//
// Pixels of a block of tiles are transformed once. Then, panel by panel, weights are transformed for a run of channels
// and multiplied at once, and the finished sums are transformed back: both stay in a core's cache. Transformed weights
// are not kept: they would be four times as large, and reading them would take about as long as making them.
#include <algorithm>
#include <vector>

#include "convolution.h"
#include "isa.h"
#include "pool.h"
#include "scratch.h"

namespace mlxdiff {
namespace {

constexpr int64_t kTile = 4, kSide = 6, kTaps = 9, kPositions = kSide * kSide;
// Tiles at once: their sums stay in a core's cache, and their transformed pixels (bytes) in that of all cores.
constexpr int64_t kMostTiles = 64, kLeastTiles = 16, kCache = 6 << 20;
// Most channels of a run: its transformed weights fill about half of a core's cache.
constexpr int64_t kMostDepth = 128;
// Positions lie a line of the cache further apart than they need, lest they all fall into the same set of lines.
constexpr int64_t kLine = 16, kGap = kLine;
// Bringing a weight into its panel and transforming it takes as long as this many products with it. Packed weights are
// transformed alone, but products with them are faster: so this counts for more.
constexpr int64_t kWeightWork = 192, kPackedWeightWork = 240;


struct Tiling {
  int64_t rows, columns, tiles;  // the first two of an image

  explicit Tiling(const Convolution& conv)
      : rows((conv.out_height() + kTile - 1) / kTile),
        columns((conv.out_width() + kTile - 1) / kTile),
        tiles(conv.batch * rows * columns) {}
  int64_t image(int64_t tile) const { return tile / (rows * columns); }
  int64_t top(int64_t tile) const { return tile / columns % rows * kTile; }
  int64_t left(int64_t tile) const { return tile % columns * kTile; }
};

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

int64_t winograd_work(const Convolution& conv, bool packed) {
  return kPositions * Tiling(conv).tiles + (packed ? kPackedWeightWork : kWeightWork);
}

template <class Real>
void convolve_by_winograd(const Convolution& conv, const Real* x, const Weights<Real>& weights, const Real* bias,
                          Real* out) {
  const Kernels<Real>& kernel = kernels<Real>();
  const Tiling tiling(conv);
  int64_t columns;
  kernel.panel_columns(&columns);
  const int64_t channels = conv.channels, out_channels = conv.out_channels, threads = pool().threads();
  const int64_t panels = ceil_divide(out_channels, columns);
  const int64_t height = conv.out_height(), width = conv.out_width();
  const int64_t blocks =
      ceil_divide(tiling.tiles, std::clamp(kCache / (4 * kPositions * channels), kLeastTiles, kMostTiles));
  const int64_t most = ceil_divide(tiling.tiles, blocks);
  const bool ready = weights.packed != nullptr;
  const int64_t runs = ready ? weights.packing.runs : ceil_divide(channels, kMostDepth);
  const int64_t depth = ceil_divide(channels, runs), run_size = kTaps * depth * columns / kPerLane<Real>;
  // Where panels are few, a thread takes one with a part of the tiles.
  const int64_t parts = std::clamp(ceil_divide(4 * threads, panels), int64_t{1}, ceil_divide(most, kLeastTiles));

  // pixels (positions, runs, tiles, depth); for each thread a panel's weights (taps, depth, columns), the same
  // transformed (positions, depth, columns), and sums (positions, tiles, columns).
  const int64_t pixel_stride = runs * most * depth + kGap, weight_stride = depth * columns + kGap;
  const int64_t sum_stride = most * columns + kGap;
  const int64_t own = (ready ? 0 : kTaps * depth * columns) + kPositions * (weight_stride + sum_stride);
  const Scratch scratch(kPositions * pixel_stride + threads * own);
  float* const pixels = scratch.data();
  const std::vector<Real> nothing(channels);

  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first = tiling.tiles * block / blocks, count = tiling.tiles * (block + 1) / blocks - first;

    pool().parallel_for(count, [&](int64_t i, int) {
      const Real* in[kPositions];
      const int64_t top = tiling.top(first + i) - conv.padding, left = tiling.left(first + i) - conv.padding;
      const Real* image = x + tiling.image(first + i) * conv.height * conv.width * channels;
      for (int64_t p = 0; p < kPositions; ++p) {
        const int64_t row = top + p / kSide, column = left + p % kSide;
        const bool inside = row >= 0 && row < conv.height && column >= 0 && column < conv.width;
        in[p] = inside ? image + (row * conv.width + column) * channels : nothing.data();
      }
      for (int64_t run = 0; run < runs; ++run) {
        kernel.winograd_pixels(in, run * depth, std::min(depth, channels - run * depth),
                               pixels + (run * most + i) * depth, pixel_stride);
      }
    });

    pool().parallel_for(panels * parts, [&](int64_t unit, int worker) {
      const int64_t panel = unit / parts, begin = count * (unit % parts) / parts;
      const int64_t some = count * (unit % parts + 1) / parts - begin;
      float* const packed = pixels + kPositions * pixel_stride + worker * own;
      float* const transformed = packed + (ready ? 0 : kTaps * depth * columns);
      float* const sums = transformed + kPositions * weight_stride;
      const int64_t here = panel * columns, valid = std::min(columns, out_channels - here);
      const float* rows[kMostTiles];
      for (int64_t i = 0; i < some; ++i) rows[i] = pixels + (begin + i) * depth;
      for (int64_t run = 0; run < runs; ++run) {
        const int64_t from = run * depth, k = std::min(depth, channels - from);
        const Real* taps = ready ? nullptr : weights.plain + here * kTaps * channels + from;
        const float* lanes = ready ? weights.packed + (panel * runs + run) * run_size : nullptr;
        if (ready) {
          kernel.winograd_lanes(lanes, k / kPerLane<Real>, transformed, weight_stride);
        } else {
          for (int64_t tap = 0; tap < kTaps; ++tap) {
            kernel.pack_panel(taps + tap * channels, kTaps * channels, valid, k, packed + tap * k * columns);
          }
          kernel.winograd_weights(packed, k * columns, transformed, weight_stride);
        }
        for (int64_t p = 0; p < kPositions; ++p) {
          // Each position fetches a part of the weights that come next.
          const float* ahead = nullptr;
          if (ready && (run + 1 < runs || panel + 1 < panels)) {
            ahead = lanes + run_size + run_size * p / kPositions;
          } else if (!ready && run + 1 < runs) {
            const Real* next = taps + p / 4 * channels + k;
            for (int64_t j = p % 4 * valid / 4; j < (p % 4 + 1) * valid / 4; ++j) {
              for (int64_t c = 0; c < k; c += kLine * kPerLane<Real>) __builtin_prefetch(next + j * kTaps * channels + c, 0, 2);
            }
          }
          kernel.product(rows, some, p * pixel_stride + run * most * depth, transformed + p * weight_stride, k,
                         run > 0, ahead, ahead == nullptr ? 0 : 4 * run_size / kPositions, sums + p * sum_stride);
        }
      }
      float start[kMostColumns] = {};
      for (int64_t j = 0; bias != nullptr && j < valid; ++j) start[j] = as_float(bias[here + j]);
      for (int64_t i = 0; i < some; ++i) {
        Real* to[kTile * kTile];
        const int64_t tile = first + begin + i, top = tiling.top(tile), left = tiling.left(tile);
        Real* image = out + tiling.image(tile) * height * width * out_channels + here;
        for (int64_t p = 0; p < kTile * kTile; ++p) {
          const int64_t row = top + p / kTile, column = left + p % kTile;
          to[p] = row < height && column < width ? image + (row * width + column) * out_channels : nullptr;
        }
        kernel.winograd_sums(sums + i * columns, sum_stride, start, to, valid);
      }
    });
  }
}

template void convolve_by_winograd(const Convolution&, const float*, const Weights<float>&, const float*, float*);
template void convolve_by_winograd(const Convolution&, const BFloat16*, const Weights<BFloat16>&, const BFloat16*,
                                   BFloat16*);

}  // namespace mlxdiff
