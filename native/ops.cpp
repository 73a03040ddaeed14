#include "ops.h"

#include <algorithm>
#include <cstdio>
#include <stdexcept>

#include "mlx/ops.h"

#include "isa.h"
#include "op.h"
#include "scratch.h"

namespace mlxdiff {
namespace {

// Elements that a thread takes at a time: a few microseconds' work, 32 KiB.
constexpr int64_t kGrain = 8192;

void require_size(const mx::array& a, int64_t size, const std::string& name) {
  require(static_cast<int64_t>(a.size()) == size, (name + " has the wrong size").c_str());
}

// All digits, for the name of an operation.
std::string text(float number) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.9g", number);
  return digits;
}

template <class Real>
using Elementwise = void (*Kernels<Real>::*)(const Real*, Real*, int64_t);

template <class Real>
mx::array elementwise(const char* name, Elementwise<Real> kernel, const mx::array& x) {
  auto work = [kernel, n = static_cast<int64_t>(x.size())](const std::vector<Input<Real>>& in, Real* out) {
    const auto run = kernels<Real>().*kernel;
    const Real* x = in[0].data;
    pool().parallel_for((n + kGrain - 1) / kGrain, [=](int64_t i, int) {
      run(x + i * kGrain, out + i * kGrain, std::min(kGrain, n - i * kGrain));
    });
  };
  return lazily<Real>({.name = name, .work = work, .in_place = true}, x.shape(), {x});
}

template <class Real>
mx::array geglu_of(const mx::array& x) {
  require(x.ndim() > 0 && x.shape(-1) % 2 == 0, "geglu takes an even last axis");
  const int64_t width = x.shape(-1) / 2;
  const int64_t rows = width == 0 ? 0 : static_cast<int64_t>(x.size()) / (2 * width);
  auto work = [rows, width](const std::vector<Input<Real>>& in, Real* out) {
    const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, width));
    const auto run = kernels<Real>().geglu;
    const Real* x = in[0].data;
    pool().parallel_for((rows + grain - 1) / grain, [=](int64_t i, int) {
      run(x + 2 * width * grain * i, out + width * grain * i, std::min(grain, rows - i * grain), width);
    });
  };
  auto shape = x.shape();
  shape.back() = static_cast<int>(width);
  return lazily<Real>({.name = "geglu", .work = work}, shape, {x});
}

template <class Real>
mx::array add_biased_of(const mx::array& x, const mx::array& y, const mx::array& bias) {
  require(x.ndim() > 0 && x.shape(-1) > 0 && x.shape() == y.shape(), "add_biased takes two arrays of one shape");
  const int64_t width = x.shape(-1), rows = static_cast<int64_t>(x.size()) / width;
  require_size(bias, width, "add_biased: bias");
  auto work = [rows, width](const std::vector<Input<Real>>& in, Real* out) {
    const int64_t grain = std::max<int64_t>(1, kGrain / width);
    const auto run = kernels<Real>().add_biased;
    pool().parallel_for((rows + grain - 1) / grain, [&](int64_t i, int) {
      const int64_t at = i * grain * width;
      run(in[0].data + at, in[1].data + at, in[2].data, out + at, std::min(grain, rows - i * grain), width);
    });
  };
  return lazily<Real>({.name = "add_biased", .work = work, .in_place = true}, x.shape(), {x, y, bias});
}

template <class Real>
mx::array layer_norm_of(const mx::array& x, const mx::array& weight, const mx::array& bias, float eps) {
  require(x.ndim() > 0 && x.shape(-1) > 0, "layer_norm takes an array of channels");
  const int64_t channels = x.shape(-1), rows = static_cast<int64_t>(x.size()) / channels;
  require_size(weight, channels, "layer_norm: weight");
  require_size(bias, channels, "layer_norm: bias");
  auto work = [=](const std::vector<Input<Real>>& in, Real* out) {
    const int64_t grain = std::max<int64_t>(1, kGrain / channels);
    const auto run = kernels<Real>().layer_norm;
    pool().parallel_for((rows + grain - 1) / grain, [&](int64_t i, int) {
      const int64_t first = i * grain * channels;
      run(in[0].data + first, in[1].data, in[2].data, out + first, std::min(grain, rows - i * grain), channels, eps);
    });
  };
  return lazily<Real>({.name = "layer_norm " + text(eps), .work = work, .in_place = true}, x.shape(), {x, weight, bias});
}

template <class Real>
mx::array group_norm_of(const mx::array& x, const mx::array& weight, const mx::array& bias, int groups, float eps,
                     const std::optional<mx::array>& shift, bool silu) {
  require(x.ndim() > 1 && x.size() > 0, "group_norm takes x (B, ..., C)");
  GroupNorm<Real> g{.batch = x.shape(0), .channels = x.shape(-1), .groups = groups, .eps = eps, .silu = silu};
  require(groups > 0 && g.channels % groups == 0, "group_norm takes groups that divide the channels");
  g.rows = static_cast<int64_t>(x.size()) / (g.batch * g.channels);
  require_size(weight, g.channels, "group_norm: weight");
  require_size(bias, g.channels, "group_norm: bias");
  std::vector<mx::array> inputs{x, weight, bias};
  if (shift) {
    const bool each = shift->ndim() == 2 && shift->shape(0) == x.shape(0);
    require_size(*shift, each ? g.batch * g.channels : g.channels, "group_norm: shift");
    g.shift_batch = each ? g.channels : 0;
    inputs.push_back(*shift);
  }
  auto work = [g](const std::vector<Input<Real>>& in, Real* out) {
    GroupNorm<Real> now = g;
    now.x = in[0].data;
    now.weight = in[1].data;
    now.bias = in[2].data;
    now.shift = in.size() > 3 ? in[3].data : nullptr;
    now.y = out;
    int64_t floats;
    kernels<Real>().group_norm_scratch(now, floats);
    kernels<Real>().group_norm(now, pool(), Scratch(floats).data());
  };
  const std::string name = "group_norm " + std::to_string(groups) + " " + text(eps) + (silu ? " silu" : "");
  return lazily<Real>({.name = name, .work = work, .in_place = true}, x.shape(), inputs);
}

template <class Real>
mx::array attention_of(const mx::array& q, const mx::array& k, const mx::array& v, int heads,
                    const std::optional<mx::array>& mask) {
  require(q.ndim() == 3 && k.ndim() == 3 && v.ndim() == 3, "attention takes q (B, T, D), k and v (B, S, D)");
  require(k.shape() == v.shape() && k.shape(0) == q.shape(0) && k.shape(2) == q.shape(2),
          "attention takes q, k and v of one batch and width");
  require(heads > 0 && q.shape(2) % heads == 0 && q.size() > 0 && k.size() > 0,
          "attention takes heads that divide the width");
  Attention<Real> a{.batch = q.shape(0), .heads = heads, .queries = q.shape(1), .keys = k.shape(1)};
  a.size = q.shape(2) / heads;
  std::vector<mx::array> inputs{q, k, v};
  if (mask) inputs.push_back(mx::broadcast_to(*mask, {q.shape(0), heads, q.shape(1), k.shape(1)}));
  auto work = [a](const std::vector<Input<Real>>& in, Real* out) {
    Attention<Real> now = a;
    now.q = in[0].data;
    now.k = in[1].data;
    now.v = in[2].data;
    now.out = out;
    now.q_batch = in[0].strides[0], now.q_row = in[0].strides[1];
    now.k_batch = in[1].strides[0], now.k_row = in[1].strides[1];
    now.v_batch = in[2].strides[0], now.v_row = in[2].strides[1];
    if (in.size() > 3) {
      now.mask = in[3].data;
      const auto& strides = in[3].strides;
      now.mask_batch = strides[0], now.mask_head = strides[1], now.mask_query = strides[2], now.mask_key = strides[3];
    }
    int64_t floats;
    kernels<Real>().attention_scratch(now, pool().threads(), floats);
    kernels<Real>().attention(now, pool(), Scratch(floats).data());
  };
  return lazily<Real>({.name = "attention " + std::to_string(heads), .work = work, .strided = true}, q.shape(), inputs);
}

}  // namespace

#define MLXDIFF_TYPED(x, make) typed(x, [&](auto number) { using Real = decltype(number); return make; })

mx::array silu(const mx::array& x) { return MLXDIFF_TYPED(x, elementwise<Real>("silu", &Kernels<Real>::silu, x)); }
mx::array gelu(const mx::array& x) { return MLXDIFF_TYPED(x, elementwise<Real>("gelu", &Kernels<Real>::gelu, x)); }

mx::array quick_gelu(const mx::array& x) {
  return MLXDIFF_TYPED(x, elementwise<Real>("quick_gelu", &Kernels<Real>::quick_gelu, x));
}

mx::array geglu(const mx::array& x) { return MLXDIFF_TYPED(x, geglu_of<Real>(x)); }

mx::array add_biased(const mx::array& x, const mx::array& y, const mx::array& bias) {
  return MLXDIFF_TYPED(x, add_biased_of<Real>(x, y, bias));
}

mx::array layer_norm(const mx::array& x, const mx::array& weight, const mx::array& bias, float eps) {
  return MLXDIFF_TYPED(x, layer_norm_of<Real>(x, weight, bias, eps));
}

mx::array group_norm(const mx::array& x, const mx::array& weight, const mx::array& bias, int groups, float eps,
                     const std::optional<mx::array>& shift, bool silu) {
  return MLXDIFF_TYPED(x, group_norm_of<Real>(x, weight, bias, groups, eps, shift, silu));
}

mx::array attention(const mx::array& q, const mx::array& k, const mx::array& v, int heads,
                    const std::optional<mx::array>& mask) {
  // Pairs of bf16 need a head of even size.
  if (q.dtype() == mx::bfloat16 && heads > 0 && q.shape(-1) / heads % 2 != 0) {
    const auto wide = [](const mx::array& a) { return mx::astype(a, mx::float32); };
    const auto seen = mask ? std::optional(wide(*mask)) : std::nullopt;
    return mx::astype(attention_of<float>(wide(q), wide(k), wide(v), heads, seen), mx::bfloat16);
  }
  return MLXDIFF_TYPED(q, attention_of<Real>(q, k, v, heads, mask));
}

}  // namespace mlxdiff
