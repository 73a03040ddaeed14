// Vectors of floats as wide as the instruction set's registers, by the vector extensions of GCC and Clang.
#pragma once

#include <cstdint>
#include <cstring>

#include "../kernels.h"

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace mlxdiff::MLXDIFF_ISA {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

// Columns of a panel of weights: two vectors, or four where there are as many registers as on 64-bit Arm.
#if defined(__aarch64__)
constexpr int kColumns = 4 * kWidth;
#else
constexpr int kColumns = 2 * kWidth;
#endif

typedef float Vec __attribute__((vector_size(4 * kWidth)));
typedef int32_t Ints __attribute__((vector_size(4 * kWidth)));
typedef uint32_t Bits __attribute__((vector_size(4 * kWidth)));
typedef float Unaligned __attribute__((vector_size(4 * kWidth), aligned(alignof(Real)), may_alias));

static inline Vec load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
static inline void store(float* p, Vec v) { *reinterpret_cast<Unaligned*>(p) = v; }
static inline Vec splat(float x) { return x - Vec{}; }

// The first n of a vector, n < kWidth; the rest is `fill`.
static inline Vec load_part(const float* p, int64_t n, float fill = 0) {
  Vec v = splat(fill);
  std::memcpy(&v, p, n * sizeof(float));
  return v;
}
static inline void store_part(float* p, Vec v, int64_t n) { std::memcpy(p, &v, n * sizeof(float)); }

static inline void put(float* p, float x) { *p = x; }

#ifdef MLXDIFF_BF16
typedef uint16_t Halves __attribute__((vector_size(2 * kWidth)));
static inline Bits bits_of(__m256i halves) { return __builtin_convertvector((Halves)halves, Bits); }
static inline Vec widened(__m256i halves) { return (Vec)(bits_of(halves) << 16); }
static inline __m256i rounded(Vec v) { return (__m256i)_mm512_cvtneps_pbh((__m512)v); }

static inline Vec load(const BFloat16* p) { return widened(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
static inline void store(BFloat16* p, Vec v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), rounded(v)); }
static inline Vec load_part(const BFloat16* p, int64_t n, float fill = 0) {
  const __mmask16 some = static_cast<__mmask16>((1u << n) - 1);
  return (Vec)_mm512_mask_mov_ps((__m512)splat(fill), some, (__m512)widened(_mm256_maskz_loadu_epi16(some, p)));
}
static inline void store_part(BFloat16* p, Vec v, int64_t n) {
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << n) - 1), rounded(v));
}

static inline void put(BFloat16* p, float x) { store_part(p, splat(x), 1); }

// sum + a * b; for bf16 the two products of each lane.
static inline Vec multiply_add(Vec sum, Vec a, Vec b) {
  return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
#else
static inline Vec multiply_add(Vec sum, Vec a, Vec b) { return sum + a * b; }
#endif
// All lanes as that one, bit by bit.
static inline Vec splat_lane(Lane x) { return (Vec)((Ints){} + __builtin_bit_cast(int32_t, x)); }

// Where a is NaN, so is the result.
static inline Vec at_least(Vec a, Vec low) { return a < low ? low : a; }
static inline Vec at_most(Vec a, Vec high) { return a > high ? high : a; }

static inline float sum(Vec v) {
  float total = 0;
  for (int i = 0; i < kWidth; ++i) total += v[i];
  return total;
}
static inline float largest(Vec v) {
  float most = v[0];
  for (int i = 1; i < kWidth; ++i) most = v[i] > most || v[i] != v[i] ? v[i] : most;
  return most;
}

// 2^x within 2e-7 of itself; 0 below -126, 2^127 above 127, NaN for a NaN with zeros in its low 9 bits.
static inline Vec exp2(Vec x) {
  // Adding 1.5 * 2^23 rounds to a whole number, which stands in the low bits.
  constexpr float kRound = 12582912.0f;
  const Vec inside = at_most(at_least(x, splat(-126)), splat(127));
  const Vec shifted = inside + kRound;
  const Vec f = inside - (shifted - kRound);
  // Minimax fit of 2^f for |f| <= 1/2, within 1.9e-9.
  Vec p = splat(1.534581242594868e-4f);
  p = p * f + 1.3399930903688073e-3f;
  p = p * f + 9.618489071726799e-3f;
  p = p * f + 5.550328642129898e-2f;
  p = p * f + 2.4022646248340607e-1f;
  p = p * f + 6.931471824645996e-1f;
  p = p * f + 1.0f;
  const Vec result = (Vec)((Bits)p + ((Bits)shifted << 23));
  return x < -126.0f ? Vec{} : result;
}

// 2^x for x <= 0, or NaN: within 3e-7 of itself, for bf16 within 8e-5; 0 far below -126. For weights, many at once.
static inline Vec exp2_of_negative(Vec x) {
#ifdef __AVX512F__
  constexpr __mmask16 kAll = 0xffff;  // without a mask GCC warns of its own header
  const Vec inside = at_least(x, splat(-200));
  const Vec whole = (Vec)_mm512_maskz_roundscale_ps(kAll, (__m512)inside, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const Vec f = inside - whole;
  // Minimax fits of 2^f for |f| <= 1/2.
  if constexpr (sizeof(Real) == 2) {
    Vec p = splat(5.517166907486416e-2f);
    p = p * f + 2.4261112219433e-1f;
    p = p * f + 6.932609854573359e-1f;
    p = p * f + 9.999280735404956e-1f;
    return (Vec)_mm512_maskz_scalef_ps(kAll, (__m512)p, (__m512)whole);
  }
  Vec p = splat(1.327647197946022e-3f);
  p = p * f + 9.675541334209932e-3f;
  p = p * f + 5.550713273542481e-2f;
  p = p * f + 2.4022119723848710e-1f;
  p = p * f + 6.931469670647336e-1f;
  p = p * f + 1.0000000716546822f;
  return (Vec)_mm512_maskz_scalef_ps(kAll, (__m512)p, (__m512)whole);
#else
  return x == x ? exp2(x) : x;  // whatever the bits of the NaN
#endif
}

constexpr float kLog2E = 1.4426950408889634f;

static inline Vec exp(Vec x) { return exp2(x * kLog2E); }

// The normal distribution's Phi(-a) for a >= 0, within 3e-7 of itself up to a = 4.
static inline Vec phi_of_negative(Vec a) {
  // exp(-a^2 / 2) times a polynomial in 1 / (1 + 0.35 a), a minimax fit of the scaled complementary error function,
  // within 3.2e-8 for a <= 14.
  const Vec t = 1.0f / (0.35f * a + 1.0f);
  Vec p = splat(-0.029146045940731308f);
  p = p * t + 0.14397225625947632f;
  p = p * t - 0.2557153975526774f;
  p = p * t + 0.1591754520385832f;
  p = p * t - 0.023110713092057908f;
  p = p * t + 0.10550837028532584f;
  p = p * t + 0.11983277641513042f;
  p = p * t + 0.13986188203897734f;
  p = p * t + 0.13962140360122066f;
  return p * t * exp2(a * a * (-0.5f * kLog2E));
}

}  // namespace mlxdiff::MLXDIFF_ISA
