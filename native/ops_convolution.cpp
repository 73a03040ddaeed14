#include <stdexcept>
#include <string>
#include <vector>

#include "mlx/ops.h"

#include "convolution.h"
#include "isa.h"
#include "matmul.h"
#include "op.h"
#include "ops.h"
#include "pack.h"

namespace mlxdiff {
namespace {

// Axes of packed weights: those of a Packing for a convolution, fewer for a linear layer, and pairs where they are.
constexpr size_t kPackedConvolution = 5, kPackedLinear = 3;

template <class Real>
size_t pair_axes() {
  return kPerLane<Real> - 1;
}

// Its kernels must not be asked anything where the processor lacks them.
template <class Real>
void require_bf16() {
  require(kPerLane<Real> == 1 || has_bf16(), "this processor has no products of bfloat16");
}

// Whether weights are packed: (panels, runs, taps, depth, columns), or of a linear layer (panels, depth, columns).
template <class Real>
std::optional<Packing> packing_of(const mx::array& weights, size_t axes, int64_t channels) {
  if (weights.ndim() != axes + pair_axes<Real>()) return std::nullopt;
  require_bf16<Real>();
  const bool flat = axes == kPackedLinear;
  const auto side = [&](int axis) { return static_cast<int64_t>(weights.shape(axis)); };
  const Packing p{
      .panels = side(0),
      .runs = flat ? 1 : side(1),
      .taps = flat ? 1 : side(2),
      .depth = side(flat ? 1 : 3),
      .columns = side(flat ? 2 : 4),
  };
  const Packing wanted = packing<Real>(p.panels * p.columns, p.taps, channels);
  require(wanted.panels == p.panels && wanted.columns == p.columns && wanted.runs == p.runs && wanted.depth == p.depth,
          "weights were packed for another instruction set, or do not fit");
  return p;
}

template <class Real>
mx::array pack_of(const mx::array& weights) {
  require_bf16<Real>();
  const bool flat = weights.ndim() == 2;
  require(flat || (weights.ndim() == 4 && weights.shape(1) == weights.shape(2) && weights.shape(1) <= 3),
          "weights are (O, C), or (O, kernel, kernel, C) with kernels of 3 at most");
  const Packing p = packing<Real>(weights.shape(0), flat ? 1 : weights.shape(1) * weights.shape(2), weights.shape(-1));
  if (p.panels == 0) return weights;
  auto work = [p](const std::vector<Input<Real>>& in, Real* out) {
    pack<Real>(p, in[0].data, reinterpret_cast<float*>(out));
  };
  const auto side = [](int64_t n) { return static_cast<int>(n); };
  mx::Shape shape = flat ? mx::Shape{side(p.panels), side(p.depth), side(p.columns)}
                         : mx::Shape{side(p.panels), side(p.runs), side(p.taps), side(p.depth), side(p.columns)};
  if (pair_axes<Real>() > 0) shape.push_back(2);
  return lazily<Real>({.name = "pack", .work = work}, shape, {weights});
}

// Pairs of bf16 need an even depth; where it is odd, as that of pictures in colour, there is little work.
template <class Make>
mx::array in_pairs(int64_t depth, const mx::array& x, const mx::array& weights, const std::optional<mx::array>& bias,
                   const Make& make) {
  if (x.dtype() != mx::bfloat16) return make(float{}, x, weights, bias);
  if (depth % 2 == 0) return make(BFloat16{}, x, weights, bias);
  const auto wide = [](const mx::array& a) { return mx::astype(a, mx::float32); };
  return mx::astype(make(float{}, wide(x), wide(weights), bias ? std::optional(wide(*bias)) : bias), mx::bfloat16);
}

template <class Real>
mx::array convolve_of(const mx::array& x, const mx::array& weights, const std::optional<mx::array>& bias, int stride,
                   int padding) {
  require(x.ndim() == 4 && x.shape(3) > 0, "images have 4 axes, channels last");
  const auto packing = packing_of<Real>(weights, kPackedConvolution, x.shape(3));
  require(packing || (weights.ndim() == 4 && weights.shape(3) == x.shape(3) && weights.shape(0) > 0),
          "weights have 4 axes, the images' channels last");
  const Convolution conv{
      .batch = x.shape(0),
      .height = x.shape(1),
      .width = x.shape(2),
      .channels = x.shape(3),
      .out_channels = packing ? packing->panels * packing->columns : weights.shape(0),
      .kernel = !packing ? weights.shape(1) : packing->taps == 9 ? 3 : packing->taps == 4 ? 2 : 1,
      .stride = stride,
      .padding = padding,
  };
  require((packing || weights.shape(2) == conv.kernel) && conv.kernel >= 1 && conv.kernel <= 3, "kernels are square, 3 x 3 at most");
  require(stride >= 1 && padding >= 0 && conv.height + 2 * padding >= conv.kernel &&
              conv.width + 2 * padding >= conv.kernel,
          "the kernel does not fit into the image");
  std::vector<mx::array> inputs{x, weights};
  if (bias) {
    require(bias->ndim() == 1 && bias->shape(0) == conv.out_channels, "there is one bias for each channel");
    inputs.push_back(*bias);
  }
  auto work = [conv, packing](const std::vector<Input<Real>>& in, Real* out) {
    Weights<Real> weights{.plain = in[1].data};
    if (packing) weights = {nullptr, reinterpret_cast<const float*>(in[1].data), *packing};
    convolve<Real>(conv, in[0].data, weights, in.size() > 2 ? in[2].data : nullptr, out);
  };
  const std::string name = "convolve " + std::to_string(stride) + " " + std::to_string(padding);
  const auto height = static_cast<int>(conv.out_height()), width = static_cast<int>(conv.out_width());
  mx::Shape shape{x.shape(0), height, width, static_cast<int>(conv.out_channels)};
  return lazily<Real>({.name = name, .work = work}, shape, std::move(inputs));
}

template <class Real>
mx::array linear_of(const mx::array& x, const mx::array& weights, const std::optional<mx::array>& bias,
                    const char* name, int64_t parts, void (*multiply)(const Product<Real>&)) {
  require(x.ndim() > 0 && x.shape(-1) > 0, "linear takes x (..., C)");
  const auto packing = packing_of<Real>(weights, kPackedLinear, x.shape(-1));
  require(packing || (weights.ndim() == 2 && weights.shape(1) == x.shape(-1)), "linear takes x (..., C) and weights (O, C)");
  const int64_t depth = x.shape(-1), columns = packing ? packing->panels * packing->columns : weights.shape(0);
  const int64_t rows = static_cast<int64_t>(x.size()) / depth;
  std::vector<mx::array> inputs{x, weights};
  if (bias) {
    require(bias->ndim() == 1 && bias->shape(0) == columns, "there is one bias for each output");
    inputs.push_back(*bias);
  }
  require(parts == 1 || (packing && packing->panels % parts == 0), "linear_geglu takes packed weights, an even number of panels");
  const int64_t width = columns / parts;
  auto work = [=](const std::vector<Input<Real>>& in, Real* out) {
    multiply({
        .rows = rows,
        .columns = columns,
        .depth = depth,
        .x = in[0].data,
        .x_row = depth,
        .weights = in[1].data,
        .weight_row = depth,
        .panels = packing ? reinterpret_cast<const float*>(in[1].data) : nullptr,
        .bias = in.size() > 2 ? in[2].data : nullptr,
        .out = out,
        .out_row = width,
    });
  };
  auto shape = x.shape();
  shape.back() = static_cast<int>(width);
  return lazily<Real>({.name = name, .work = work}, shape, std::move(inputs));
}

}  // namespace

mx::array pack(const mx::array& weights) {
  return typed(weights, [&](auto number) { return pack_of<decltype(number)>(weights); });
}

mx::array convolve(const mx::array& x, const mx::array& weights, const std::optional<mx::array>& bias, int stride,
                   int padding) {
  return in_pairs(x.ndim() == 0 ? 0 : x.shape(-1), x, weights, bias, [&](auto number, const auto&... arrays) {
    return convolve_of<decltype(number)>(arrays..., stride, padding);
  });
}

mx::array linear(const mx::array& x, const mx::array& weights, const std::optional<mx::array>& bias) {
  return in_pairs(x.ndim() == 0 ? 0 : x.shape(-1), x, weights, bias, [&](auto number, const auto&... arrays) {
    using Real = decltype(number);
    return linear_of<Real>(arrays..., "linear", 1, multiply<Real>);
  });
}

mx::array linear_geglu(const mx::array& x, const mx::array& weights, const std::optional<mx::array>& bias) {
  return typed(x, [&](auto number) {
    using Real = decltype(number);
    return linear_of<Real>(x, weights, bias, "linear_geglu", 2, multiply_gated<Real>);
  });
}

mx::array quantized_linear(const mx::array& x, const mx::array& weights, const mx::array& scales,
                           const mx::array& biases, int group_size, int bits) {
  require(x.ndim() > 0 && x.shape(-1) > 0 && weights.ndim() == 2 && weights.dtype() == mx::uint32 &&
              x.dtype() == mx::float32,
          "quantized_linear takes x (..., C) in fp32 and words of weights");
  require((bits == 4 || bits == 8) && group_size > 0 && group_size % 8 == 0 && x.shape(-1) % group_size == 0,
          "weights have 4 or 8 bits, and groups of a multiple of 8 that divides the depth");
  const int64_t depth = x.shape(-1), columns = weights.shape(0), rows = static_cast<int64_t>(x.size()) / depth;
  const mx::Shape groups{weights.shape(0), static_cast<int>(depth / group_size)};
  require(weights.shape(1) == depth * bits / 32 && scales.shape() == groups && biases.shape() == groups,
          "weights, scales and biases belong together");
  auto work = [=](const std::vector<Input<float>>& in, float* out) {
    const Product<float> product{
        .rows = rows,
        .columns = columns,
        .depth = depth,
        .x = in[0].data,
        .x_row = depth,
        .weights = nullptr,
        .weight_row = 0,
        .bias = nullptr,
        .out = out,
        .out_row = columns,
    };
    multiply_quantized(product, {reinterpret_cast<const uint32_t*>(in[1].data), in[2].data, in[3].data, group_size, bits});
  };
  auto shape = x.shape();
  shape.back() = static_cast<int>(columns);
  const std::string name = "quantized_linear " + std::to_string(group_size) + " " + std::to_string(bits);
  return lazily<float>({.name = name, .work = work, .words = true}, shape, {x, weights, scales, biases});
}

}  // namespace mlxdiff
