#include "pack.h"

#include "isa.h"
#include "pool.h"

namespace mlxdiff {
namespace {

// Channels of a run: Winograd's algorithm transforms the weights of one at a time, which must stay in a core's cache.
constexpr int64_t kMostChannels = 128, kLeastChannels = 32;

}  // namespace

template <class Real>
Packing packing(int64_t out_channels, int64_t taps, int64_t channels) {
  constexpr int64_t per = kPerLane<Real>;
  int64_t columns;
  kernels<Real>().panel_columns(&columns);
  if (out_channels == 0 || out_channels % columns != 0 || channels == 0 || channels % per != 0) return {};
  const int64_t lanes = channels / per;
  int64_t runs = 1;
  if (taps > 1) {
    while (runs < lanes && (lanes % runs != 0 || lanes / runs > kMostChannels / per)) ++runs;
    if (runs > 1 && lanes / runs < kLeastChannels / per) return {};
  }
  return {.panels = out_channels / columns, .runs = runs, .taps = taps, .depth = lanes / runs, .columns = columns};
}

template <class Real>
void pack(const Packing& p, const Real* weights, float* out) {
  const Kernels<Real>& kernel = kernels<Real>();
  const int64_t lanes = p.runs * p.depth;
  const Lane* const in = reinterpret_cast<const Lane*>(weights);
  pool().parallel_for(p.panels * p.runs, [&](int64_t unit, int) {
    const int64_t panel = unit / p.runs, run = unit % p.runs;
    for (int64_t tap = 0; tap < p.taps; ++tap) {
      kernel.pack_lanes(in + (panel * p.columns * p.taps + tap) * lanes + run * p.depth, p.taps * lanes, p.columns, p.depth,
                        out + (unit * p.taps + tap) * p.depth * p.columns);
    }
  });
}

template Packing packing<float>(int64_t, int64_t, int64_t);
template Packing packing<BFloat16>(int64_t, int64_t, int64_t);
template void pack(const Packing&, const float*, float*);
template void pack(const Packing&, const BFloat16*, float*);

}  // namespace mlxdiff
