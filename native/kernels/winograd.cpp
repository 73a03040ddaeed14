// The transforms of Winograd's convolution F(4x4, 3x3) (Lavin and Gray 2016, Fast Algorithms for Convolutional Neural
// Networks), of pixels, weights and sums, for all channels of a run. See native/winograd.cpp.
#include "../kernels.h"
#include "simd.h"

namespace mlxdiff::MLXDIFF_ISA {
namespace {

constexpr int kOut = 4, kTaps = 3, kSide = 6;

// The points at which polynomials are evaluated: 0, +-kA, +-kB, infinity. Exact in binary, and rounding is less than
// half of that with +-1 and +-2.
constexpr float kA = 0.625f, kB = 1.5f;
constexpr float kA2 = kA * kA, kB2 = kB * kB;

// Along one axis; V is a vector of channels, or one channel. Results lie `step` apart.
template <class V>
inline void pixels(const V* d, V* t, int step) {
  t[0] = kA2 * kB2 * d[0] - (kA2 + kB2) * d[2] + d[4];
  const V even_a = d[4] - kB2 * d[2], odd_a = kA * (d[3] - kB2 * d[1]);
  t[step] = even_a + odd_a;
  t[2 * step] = even_a - odd_a;
  const V even_b = d[4] - kA2 * d[2], odd_b = kB * (d[3] - kA2 * d[1]);
  t[3 * step] = even_b + odd_b;
  t[4 * step] = even_b - odd_b;
  t[5 * step] = kA2 * kB2 * d[1] - (kA2 + kB2) * d[3] + d[5];
}

template <class V>
inline void weights(const V* g, V* t, int step) {
  constexpr float a = 1 / (2 * kA2 * (kA2 - kB2)), b = 1 / (2 * kB2 * (kB2 - kA2));
  t[0] = 1 / (kA2 * kB2) * g[0];
  const V even_a = a * g[0] + (a * kA2) * g[2], odd_a = (a * kA) * g[1];
  t[step] = even_a + odd_a;
  t[2 * step] = even_a - odd_a;
  const V even_b = b * g[0] + (b * kB2) * g[2], odd_b = (b * kB) * g[1];
  t[3 * step] = even_b + odd_b;
  t[4 * step] = even_b - odd_b;
  t[5 * step] = g[2];
}

// Nine taps (a function of their number) to 36 positions.
template <class Tap>
inline void transform(const Tap& tap, float* out, int64_t stride) {
  Vec columns[kSide * kTaps], line[kTaps], row[kSide];
#pragma GCC unroll 3
  for (int j = 0; j < kTaps; ++j) {
#pragma GCC unroll 3
    for (int i = 0; i < kTaps; ++i) line[i] = tap(i * kTaps + j);
    weights(line, columns + j, kTaps);
  }
#pragma GCC unroll 6
  for (int i = 0; i < kSide; ++i) {
    weights(columns + i * kTaps, row, 1);
#pragma GCC unroll 6
    for (int j = 0; j < kSide; ++j) store(out + (i * kSide + j) * stride, row[j]);
  }
}

template <class V>
inline void sums(const V* t, V* y, int step) {
  const V sum_a = t[1] + t[2], difference_a = t[1] - t[2];
  const V sum_b = t[3] + t[4], difference_b = t[3] - t[4];
  y[0] = t[0] + sum_a + sum_b;
  y[step] = kA * difference_a + kB * difference_b;
  y[2 * step] = kA2 * sum_a + kB2 * sum_b;
  y[3 * step] = kA2 * kA * difference_a + kB2 * kB * difference_b + t[5];
}

inline Vec get(const Real* p, Vec*) { return load(p); }
inline float get(const Real* p, float*) { return as_float(*p); }
inline void keep(float* p, Vec v) { store(p, v); }
inline void keep(float* p, float v) { *p = v; }

template <class V>
inline void enter(const Real* const* in, int64_t c, float* out, int64_t stride) {
  V columns[kSide * kSide], line[kSide], row[kSide];
#pragma GCC unroll 6
  for (int j = 0; j < kSide; ++j) {
#pragma GCC unroll 6
    for (int i = 0; i < kSide; ++i) line[i] = get(in[i * kSide + j] + c, static_cast<V*>(nullptr));
    pixels(line, columns + j, kSide);
  }
#pragma GCC unroll 6
  for (int i = 0; i < kSide; ++i) {
    pixels(columns + i * kSide, row, 1);
#pragma GCC unroll 6
    for (int j = 0; j < kSide; ++j) keep(out + (i * kSide + j) * stride, row[j]);
  }
}

}  // namespace

void winograd_pixels(const Real* const* in, int64_t from, int64_t channels, float* out, int64_t stride) {
  int64_t c = 0;
  for (; c + kWidth <= channels; c += kWidth) enter<Vec>(in, from + c, out + c, stride);
  for (; c < channels; ++c) enter<float>(in, from + c, out + c, stride);
}

void winograd_weights(const float* in, int64_t count, float* out, int64_t stride) {
  for (int64_t c = 0; c < count; c += kWidth) {
    transform([=](int tap) { return load(in + tap * count + c); }, out + c, stride);
  }
}

void winograd_lanes(const float* in, int64_t lanes, float* out, int64_t stride) {
#ifdef MLXDIFF_BF16
  const int64_t count = lanes * kColumns;
  for (int64_t c = 0; c < count; c += kWidth) {
    const auto pair = [=](int tap) { return (Bits)load(in + tap * count + c); };
    // Both numbers of a lane are of the same output channel, and of neighbours of the input's.
    float* const to = out + c / kColumns * 2 * kColumns + c % kColumns;
    transform([=](int tap) { return (Vec)(pair(tap) << 16); }, to, stride);
    transform([=](int tap) { return (Vec)(pair(tap) & 0xffff0000u); }, to + kColumns, stride);
  }
#else
  winograd_weights(in, lanes * kColumns, out, stride);
#endif
}

void winograd_sums(const float* in, int64_t stride, const float* start, Real* const* out, int64_t channels) {
  for (int64_t c = 0; c < channels; c += kWidth) {
    Vec columns[kOut * kSide], line[kSide], row[kOut];
#pragma GCC unroll 6
    for (int j = 0; j < kSide; ++j) {
#pragma GCC unroll 6
      for (int i = 0; i < kSide; ++i) line[i] = load(in + (i * kSide + j) * stride + c);
      sums(line, columns + j, kSide);
    }
    const Vec bias = load(start + c);
    const int64_t some = channels - c;
#pragma GCC unroll 4
    for (int i = 0; i < kOut; ++i) {
      sums(columns + i * kSide, row, 1);
#pragma GCC unroll 4
      for (int j = 0; j < kOut; ++j) {
        Real* to = out[i * kOut + j];
        if (to == nullptr) continue;
        if (some >= kWidth) {
          store(to + c, row[j] + bias);
        } else {
          store_part(to + c, row[j] + bias, some);
        }
      }
    }
  }
}

}  // namespace mlxdiff::MLXDIFF_ISA
