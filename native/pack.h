// Weights in the order in which products read them, so that nothing has to be brought into it at each call.
#pragma once

#include <cstdint>

namespace mlxdiff {

// Weights (out_channels, taps, channels) become (panels, runs, taps, depth, columns): panels of output channels as wide
// as a register tile, runs of channels. Depth counts lanes: pairs of bf16. Nothing is left over: out_channels is
// panels * columns, and the lanes of all channels are runs * depth.
struct Packing {
  int64_t panels, runs, taps, depth, columns;

  int64_t panel_size() const { return runs * taps * depth * columns; }  // lanes
};

// How weights of that shape are packed; without panels where they are not: something would be left over, or runs short.
template <class Real>
Packing packing(int64_t out_channels, int64_t taps, int64_t channels);

// Weights of a convolution, as they are or packed.
template <class Real>
struct Weights {
  const Real* plain;
  const float* packed = nullptr;  // then `plain` is not looked at
  Packing packing{};
};

// weights (out_channels, taps, channels) to `out`.
template <class Real>
void pack(const Packing&, const Real* weights, float* out);

}  // namespace mlxdiff
