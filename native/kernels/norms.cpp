// Group and layer normalization. Squares are summed about a mean, so that a large mean costs no digits.
#include "../kernels.h"
#include "activations.h"

namespace mlxdiff::MLXDIFF_ISA {
namespace {

constexpr int64_t kChunk = 8;  // rows whose mean and squares are taken together, from the first level cache
constexpr int64_t kPart = 64;  // rows of a thread at a time, at least

constexpr int64_t kMostParts = 64;

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t padded(int64_t channels) { return (channels + 15) / 16 * 16; }

// In how many parts the rows of one image are dealt out: the same for any number of threads, so that sums are too.
int64_t parts_of(const GroupNorm<Real>& g) { return least((g.rows + kPart - 1) / kPart, kMostParts); }

// Adds n rows of one vector of channels to the mean and the sum of squares about it of `before` rows
// (Chan, Golub and LeVeque 1979).
template <class Load>
inline void add_rows(int64_t n, int64_t before, float* mean, float* squares, Load row) {
  Vec total{};
  for (int64_t r = 0; r < n; ++r) total += row(r);
  const Vec here = total * (1.0f / n);
  Vec spread{};
  for (int64_t r = 0; r < n; ++r) {
    const Vec d = row(r) - here;
    spread += d * d;
  }
  const float all = static_cast<float>(before + n);
  const Vec apart = here - load(mean);
  store(mean, load(mean) + apart * (n / all));
  store(squares, load(squares) + spread + apart * apart * (n * (before / all)));
}

// Mean, less the first row, and sum of squares about it, of each channel of x (rows, channels). Numbers that are near
// each other are subtracted without an error.
void channel_moments(const Real* x, int64_t rows, int64_t channels, float* mean, float* squares) {
  for (int64_t c = 0; c < padded(channels); ++c) mean[c] = squares[c] = 0;
  for (int64_t first = 0; first < rows; first += kChunk) {
    const int64_t n = least(kChunk, rows - first);
    const Real* from = x + first * channels;
    int64_t c = 0;
    for (; c + kWidth <= channels; c += kWidth) {
      const Vec pivot = load(x + c);
      add_rows(n, first, mean + c, squares + c, [&](int64_t r) { return load(from + r * channels + c) - pivot; });
    }
    if (c < channels) {
      const Vec pivot = load_part(x + c, channels - c);
      add_rows(n, first, mean + c, squares + c,
               [&](int64_t r) { return load_part(from + r * channels + c, channels - c) - pivot; });
    }
  }
}

// What happens to a channel: y = (x - centre) * scale + offset.
struct Affine {
  float *centre, *scale, *offset;
};

// The moments of all parts of one image, put together group by group in double precision.
void combine(const GroupNorm<Real>& g, int64_t b, const float* moments, int64_t parts, int64_t per_part, Affine to) {
  const int64_t stride = padded(g.channels), members = g.channels / g.groups;
  const Real* shift = g.shift == nullptr ? nullptr : g.shift + b * g.shift_batch;
  for (int64_t group = 0; group < g.groups; ++group) {
    double count = 0, mean = 0, squares = 0;
    for (int64_t part = 0; part < parts; ++part) {
      const double n = static_cast<double>(least(per_part, g.rows - part * per_part));
      const float* at = moments + part * 2 * stride;
      const Real* pivot = g.x + (b * g.rows + part * per_part) * g.channels;
      for (int64_t c = group * members; c < (group + 1) * members; ++c) {
        const double apart = static_cast<double>(as_float(pivot[c])) + at[c] + (shift == nullptr ? 0.0 : as_float(shift[c])) - mean;
        squares += at[stride + c] + apart * apart * (count * n / (count + n));
        mean += apart * (n / (count + n));
        count += n;
      }
    }
    const double inverse = 1 / __builtin_sqrt(squares / count + g.eps);
    for (int64_t c = group * members; c < (group + 1) * members; ++c) {
      const double centre = mean - (shift == nullptr ? 0.0 : as_float(shift[c])), scale = inverse * as_float(g.weight[c]);
      to.centre[c] = static_cast<float>(centre);
      to.scale[c] = static_cast<float>(scale);
      // What rounding the centre loses.
      to.offset[c] = static_cast<float>(as_float(g.bias[c]) - (centre - to.centre[c]) * scale);
    }
  }
}

template <bool kSilu>
void apply(const Real* x, Real* y, int64_t rows, int64_t channels, Affine by) {
  const auto one = [&](Vec v, int64_t c) {
    v = (v - load(by.centre + c)) * load(by.scale + c) + load(by.offset + c);
    return kSilu ? silu(v) : v;
  };
  for (int64_t r = 0; r < rows; ++r, x += channels, y += channels) {
    int64_t c = 0;
    for (; c + kWidth <= channels; c += kWidth) store(y + c, one(load(x + c), c));
    if (c < channels) store_part(y + c, one(load_part(x + c, channels - c), c), channels - c);
  }
}

}  // namespace

void group_norm_scratch(const GroupNorm<Real>& g, int64_t& floats) {
  floats = g.batch * (2 * parts_of(g) + 3) * padded(g.channels);
}

void group_norm(const GroupNorm<Real>& g, Pool& pool, float* scratch) {
  const int64_t stride = padded(g.channels), per_image = g.rows * g.channels;
  const int64_t parts = parts_of(g), per_part = (g.rows + parts - 1) / parts;
  float* moments = scratch;
  float* affine = moments + g.batch * parts * 2 * stride;
  const auto affine_of = [=](int64_t b) {
    float* at = affine + b * 3 * stride;
    return Affine{at, at + stride, at + 2 * stride};
  };
  // The last parts may be empty: a multiple of parts need not be the number of rows.
  const int64_t used = (g.rows + per_part - 1) / per_part;

  pool.parallel_for(g.batch * used, [&](int64_t i, int) {
    const int64_t b = i / used, part = i % used, first = part * per_part;
    float* at = moments + (b * parts + part) * 2 * stride;
    channel_moments(g.x + b * per_image + first * g.channels, least(per_part, g.rows - first), g.channels, at,
                    at + stride);
  });
  pool.parallel_for(g.batch, [&](int64_t b, int) {
    combine(g, b, moments + b * parts * 2 * stride, used, per_part, affine_of(b));
  });
  pool.parallel_for(g.batch * used, [&](int64_t i, int) {
    const int64_t b = i / used, first = i % used * per_part, from = b * per_image + first * g.channels;
    const int64_t rows = least(per_part, g.rows - first);
    (g.silu ? apply<true> : apply<false>)(g.x + from, g.y + from, rows, g.channels, affine_of(b));
  });
}

void layer_norm(const Real* x, const Real* weight, const Real* bias, Real* y, int64_t rows, int64_t channels,
                float eps) {
  const int64_t whole = channels / kWidth * kWidth, rest = channels - whole;
  for (int64_t r = 0; r < rows; ++r, x += channels, y += channels) {
    Vec total{};
    for (int64_t c = 0; c < whole; c += kWidth) total += load(x + c);
    if (rest > 0) total += load_part(x + whole, rest);
    const float mean = sum(total) / channels;
    // The sum about the rounded mean tells what rounding lost.
    Vec first{}, second{};
    for (int64_t c = 0; c < whole; c += kWidth) {
      const Vec d = load(x + c) - mean;
      first += d;
      second += d * d;
    }
    if (rest > 0) {
      const Vec d = load_part(x + whole, rest, mean) - mean;
      first += d;
      second += d * d;
    }
    const float lost = sum(first) / channels;
    const float scale = 1.0f / __builtin_sqrtf(sum(second) / channels - lost * lost + eps);
    const auto one = [&](Vec v, Vec w, Vec b) { return (v - mean - lost) * scale * w + b; };
    for (int64_t c = 0; c < whole; c += kWidth) store(y + c, one(load(x + c), load(weight + c), load(bias + c)));
    if (rest > 0) {
      store_part(y + whole,
                 one(load_part(x + whole, rest), load_part(weight + whole, rest), load_part(bias + whole, rest)), rest);
    }
  }
}

}  // namespace mlxdiff::MLXDIFF_ISA
