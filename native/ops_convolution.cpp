#include <stdexcept>
#include <string>
#include <vector>

#include "mlx/ops.h"

#include "convolution.h"
#include "matmul.h"
#include "op.h"
#include "ops.h"

namespace mlxdiff {
namespace {

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
  require(x.ndim() == 4 && weights.ndim() == 4 && weights.shape(3) == x.shape(3),
          "images and weights have 4 axes, channels last");
  require(x.shape(3) > 0 && weights.shape(0) > 0, "images and weights have channels");
  const Convolution conv{
      .batch = x.shape(0),
      .height = x.shape(1),
      .width = x.shape(2),
      .channels = x.shape(3),
      .out_channels = weights.shape(0),
      .kernel = weights.shape(1),
      .stride = stride,
      .padding = padding,
  };
  require(weights.shape(2) == conv.kernel && conv.kernel >= 1 && conv.kernel <= 3, "kernels are square, 3 x 3 at most");
  require(stride >= 1 && padding >= 0 && conv.height + 2 * padding >= conv.kernel &&
              conv.width + 2 * padding >= conv.kernel,
          "the kernel does not fit into the image");
  std::vector<mx::array> inputs{x, weights};
  if (bias) {
    require(bias->ndim() == 1 && bias->shape(0) == conv.out_channels, "there is one bias for each channel");
    inputs.push_back(*bias);
  }
  auto work = [conv](const std::vector<Input<Real>>& in, Real* out) {
    convolve<Real>(conv, in[0].data, in[1].data, in.size() > 2 ? in[2].data : nullptr, out);
  };
  const std::string name = "convolve " + std::to_string(stride) + " " + std::to_string(padding);
  const auto height = static_cast<int>(conv.out_height()), width = static_cast<int>(conv.out_width());
  mx::Shape shape{x.shape(0), height, width, weights.shape(0)};
  return lazily<Real>({.name = name, .work = work}, shape, std::move(inputs));
}

template <class Real>
mx::array linear_of(const mx::array& x, const mx::array& weights, const std::optional<mx::array>& bias) {
  require(x.ndim() > 0 && weights.ndim() == 2 && weights.shape(1) == x.shape(-1) && x.shape(-1) > 0,
          "linear takes x (..., C) and weights (O, C)");
  const int64_t depth = x.shape(-1), columns = weights.shape(0), rows = static_cast<int64_t>(x.size()) / depth;
  std::vector<mx::array> inputs{x, weights};
  if (bias) {
    require(bias->ndim() == 1 && bias->shape(0) == columns, "there is one bias for each output");
    inputs.push_back(*bias);
  }
  auto work = [=](const std::vector<Input<Real>>& in, Real* out) {
    multiply<Real>({
        .rows = rows,
        .columns = columns,
        .depth = depth,
        .x = in[0].data,
        .x_row = depth,
        .weights = in[1].data,
        .weight_row = depth,
        .bias = in.size() > 2 ? in[2].data : nullptr,
        .out = out,
        .out_row = columns,
    });
  };
  auto shape = x.shape();
  shape.back() = static_cast<int>(columns);
  return lazily<Real>({.name = "linear", .work = work}, shape, std::move(inputs));
}

}  // namespace

mx::array convolve(const mx::array& x, const mx::array& weights, const std::optional<mx::array>& bias, int stride,
                   int padding) {
  return in_pairs(x.ndim() == 0 ? 0 : x.shape(-1), x, weights, bias, [&](auto number, const auto&... arrays) {
    return convolve_of<decltype(number)>(arrays..., stride, padding);
  });
}

mx::array linear(const mx::array& x, const mx::array& weights, const std::optional<mx::array>& bias) {
  return in_pairs(x.ndim() == 0 ? 0 : x.shape(-1), x, weights, bias, [&](auto number, const auto&... arrays) {
    return linear_of<decltype(number)>(arrays...);
  });
}

}  // namespace mlxdiff
