// An operation of the extension as a lazy MLX operation.
#pragma once

#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "mlx/array.h"

namespace mlxdiff {

namespace mx = mlx::core;

// What the work sees of an input: fp32, the last axis contiguous.
struct Input {
  const float* data;
  mx::Shape shape;
  mx::Strides strides;  // in elements
};

// Computes the output, row-major, from the inputs; runs later, on a thread of MLX's. It owns whatever it needs.
using Work = std::function<void(const std::vector<Input>& inputs, float* output)>;

struct Op {
  std::string name;  // with all parameters: ops of one name and the same inputs are the same
  Work work;
  // Whether the work looks at strides: inputs then come as they lie if their last axis is contiguous;
  // otherwise they are row-major, copied if need be.
  bool strided = false;
  bool in_place = false;  // whether the output may be the first input, of the same size
};

// The array of that shape that `op` makes of the inputs, once somebody evaluates it.
// Throws std::invalid_argument unless all inputs are fp32.
mx::array lazily(Op op, mx::Shape shape, std::vector<mx::array> inputs);

// Throws std::invalid_argument, a ValueError in Python, where something does not hold.
inline void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

}  // namespace mlxdiff
