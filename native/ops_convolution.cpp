#include <stdexcept>
#include <string>
#include <vector>

#include "convolution.h"
#include "op.h"
#include "ops.h"

namespace mlxdiff {
mx::array convolve(const mx::array& x, const mx::array& weights, const std::optional<mx::array>& bias, int stride,
                   int padding) {
  require(x.ndim() == 4 && weights.ndim() == 4 && weights.shape(3) == x.shape(3),
          "images and weights have 4 axes, channels last");
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
  auto work = [conv](const std::vector<Input>& in, float* out) {
    convolve(conv, in[0].data, in[1].data, in.size() > 2 ? in[2].data : nullptr, out);
  };
  const std::string name = "convolve " + std::to_string(stride) + " " + std::to_string(padding);
  const auto height = static_cast<int>(conv.out_height()), width = static_cast<int>(conv.out_width());
  mx::Shape shape{x.shape(0), height, width, weights.shape(0)};
  return lazily({.name = name, .work = work}, shape, std::move(inputs));
}

}  // namespace mlxdiff
