#include "op.h"

#include <algorithm>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>

#include "mlx/allocator.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/primitives.h"

namespace mlxdiff {
namespace {

// MLX's allocator gives a null pointer when there is no memory, which its own operations write to.
mx::allocator::Data allocate(size_t bytes) {
  auto data = mx::allocator::malloc(bytes);
  if (bytes > 0 && data.buffer().ptr() == nullptr) {
    throw std::runtime_error("[malloc] Unable to allocate " + std::to_string(bytes) + " bytes.");
  }
  return data;
}

Input view(const mx::array& a) { return {a.data<float>(), a.shape(), a.strides()}; }

// Copies elements of any strides into row-major order.
void gather(const float* from, const mx::Shape& shape, const mx::Strides& strides, size_t axis, float*& to) {
  if (axis == shape.size()) {
    *to++ = *from;
    return;
  }
  const int64_t stride = strides[axis];
  if (axis + 1 == shape.size()) {
    for (int i = 0; i < shape[axis]; ++i) *to++ = from[i * stride];
    return;
  }
  for (int i = 0; i < shape[axis]; ++i) gather(from + i * stride, shape, strides, axis + 1, to);
}

class Lazy : public mx::Primitive {
 public:
  Lazy(mx::Stream stream, Op op) : Primitive(stream), op_(std::move(op)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    std::vector<Input> views;
    std::vector<std::pair<Input, float*>> copies;
    for (const auto& input : inputs) {
      const bool fits = input.flags().row_contiguous || (op_.strided && input.ndim() > 0 && input.strides(-1) == 1);
      if (fits) {
        views.push_back(view(input));
        continue;
      }
      mx::array copy(input.shape(), input.dtype(), nullptr, {});
      copy.set_data(allocate(copy.nbytes()));
      encoder.add_temporary(copy);
      copies.emplace_back(view(input), copy.data<float>());
      views.push_back(view(copy));
    }
    auto& out = outputs[0];
    const auto& first = inputs[0];
    if (op_.in_place && copies.empty() && first.flags().row_contiguous && first.is_donatable() &&
        first.size() == out.size()) {
      out.copy_shared_buffer(first);
    } else {
      out.set_data(allocate(out.nbytes()));
    }
    encoder.dispatch([work = op_.work, views = std::move(views), copies = std::move(copies),
                      output = out.data<float>(), size = out.size()] {
      for (auto [input, to] : copies) gather(input.data, input.shape, input.strides, 0, to);
      try {
        work(views, output);
      } catch (const std::bad_alloc&) {
        // Nobody catches on MLX's thread, so that throwing would end the process: numbers that are none tell.
        std::fill_n(output, size, std::numeric_limits<float>::quiet_NaN());
      }
    });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error(op_.name + " is for the CPU");
  }

  const char* name() const override { return op_.name.c_str(); }

  bool is_equivalent(const Primitive& other) const override {
    const auto* lazy = dynamic_cast<const Lazy*>(&other);
    return lazy != nullptr && lazy->op_.name == op_.name;
  }

 private:
  Op op_;
};

}  // namespace

mx::array lazily(Op op, mx::Shape shape, std::vector<mx::array> inputs) {
  for (const auto& input : inputs) {
    if (input.dtype() != mx::float32) throw std::invalid_argument(op.name + " takes arrays of float32");
  }
  auto primitive = std::make_shared<Lazy>(mx::default_stream(mx::Device::cpu), std::move(op));
  return mx::array(std::move(shape), mx::float32, std::move(primitive), std::move(inputs));
}

}  // namespace mlxdiff
