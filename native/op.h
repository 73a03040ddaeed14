// An operation of the extension as a lazy MLX operation.
#pragma once

#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "mlx/array.h"

#include "kernels.h"

namespace mlxdiff {

namespace mx = mlx::core;

// What the work sees of an input: fp32 or bf16, the last axis contiguous.
template <class Real>
struct Input {
  const Real* data;
  mx::Shape shape;
  mx::Strides strides;  // in elements
};

// Computes the output, row-major, from the inputs; runs later, on a thread of MLX's. It owns whatever it needs.
template <class Real>
using Work = std::function<void(const std::vector<Input<Real>>& inputs, Real* output)>;

template <class Real>
struct Op {
  std::string name;  // with all parameters: ops of one name and the same inputs are the same
  Work<Real> work;
  // Whether the work looks at strides: inputs then come as they lie if their last axis is contiguous;
  // otherwise they are row-major, copied if need be.
  bool strided = false;
  bool words = false;  // whether inputs may also be words of 32 bits; the work knows which
  bool in_place = false;  // whether the output may be the first input, of the same size
};

// The array of that shape that `op` makes of the inputs, once somebody evaluates it.
// Throws std::invalid_argument unless all inputs are of the op's type, and the processor computes with it.
template <class Real>
mx::array lazily(Op<Real> op, mx::Shape shape, std::vector<mx::array> inputs);

// make(number), of whichever type x has numbers of.
template <class Make>
mx::array typed(const mx::array& x, const Make& make) {
  return x.dtype() == mx::bfloat16 ? make(BFloat16{}) : make(float{});
}

// Throws std::invalid_argument, a ValueError in Python, where something does not hold.
inline void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

}  // namespace mlxdiff
