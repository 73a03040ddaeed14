// Convolutions of images in fp32 or bf16, channels last. Sums are fp32.
#pragma once

#include <cstdint>

#include "pack.h"

namespace mlxdiff {

// x (batch, height, width, channels), weights (out_channels, kernel, kernel, channels); padding on all four sides.
struct Convolution {
  int64_t batch, height, width, channels, out_channels;
  int64_t kernel, stride, padding;

  int64_t out_height() const { return (height + 2 * padding - kernel) / stride + 1; }
  int64_t out_width() const { return (width + 2 * padding - kernel) / stride + 1; }
  int64_t out_pixels() const { return batch * out_height() * out_width(); }
};

// out (batch, out_height, out_width, out_channels), by whichever algorithm takes less work. `bias` (out_channels) may
// be null.
template <class Real>
void convolve(const Convolution&, const Real* x, const Weights<Real>& weights, const Real* bias, Real* out);

// The sum over taps, as products. Weights that are not packed are brought into panels, the output channels that a
// register tile is wide, a run of channels at a time. The channels of bf16 are even.
template <class Real>
void convolve_directly(const Convolution&, const Real* x, const Weights<Real>& weights, const Real* bias, Real* out);

// Winograd's algorithm, for kernels of 3 with stride 1, which multiplies fp32 whatever the images are. Its work, in
// products for each input and output channel; the other one takes kernel^2 for each pixel.
int64_t winograd_work(const Convolution&, bool packed);
template <class Real>
void convolve_by_winograd(const Convolution&, const Real* x, const Weights<Real>& weights, const Real* bias, Real* out);

}  // namespace mlxdiff
