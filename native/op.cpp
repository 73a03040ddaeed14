#include "op.h"

#include <algorithm>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "mlx/allocator.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/primitives.h"

#include "isa.h"
#include "scratch.h"

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

// Memory for the array that begins a line of the cache, where vectors are read fastest.
void give_memory(mx::array& a) {
  constexpr size_t kLine = 64;
  auto data = allocate(a.nbytes() + kLine);
  const size_t past = reinterpret_cast<uintptr_t>(data.buffer().raw_ptr()) % kLine;
  const auto offset = static_cast<int64_t>(past == 0 ? 0 : kLine - past);
  a.set_data(std::move(data), a.size(), a.strides(), {.contiguous = true, .row_contiguous = true, .col_contiguous = a.size() <= 1 || a.ndim() == 1}, offset);
}

template <class Real>
Input<Real> view(const mx::array& a) {
  return {a.data<Real>(), a.shape(), a.strides()};
}

void fill_with_nan(float* to, size_t n) { std::fill_n(to, n, std::numeric_limits<float>::quiet_NaN()); }
void fill_with_nan(BFloat16* to, size_t n) { std::fill_n(to, n, BFloat16{0x7fc0}); }

// Copies elements of any strides into row-major order.
template <class Real>
void gather(const Real* from, const mx::Shape& shape, const mx::Strides& strides, size_t axis, Real*& to) {
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

template <class Real>
class Lazy : public mx::Primitive {
 public:
  Lazy(mx::Stream stream, Op<Real> op) : Primitive(stream), op_(std::move(op)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    if (lacked_memory()) throw std::runtime_error("[malloc] Unable to allocate memory for " + op_.name + ".");
    auto& encoder = mx::cpu::get_command_encoder(stream());
    std::vector<Input<Real>> views;
    std::vector<std::pair<Input<Real>, Real*>> copies;
    for (const auto& input : inputs) {
      const bool fits = input.flags().row_contiguous || (op_.strided && input.ndim() > 0 && input.strides(-1) == 1);
      if (fits) {
        views.push_back(view<Real>(input));
        continue;
      }
      mx::array copy(input.shape(), input.dtype(), nullptr, {});
      copy.set_data(allocate(copy.nbytes()));
      encoder.add_temporary(copy);
      copies.emplace_back(view<Real>(input), copy.data<Real>());
      views.push_back(view<Real>(copy));
    }
    auto& out = outputs[0];
    const auto& first = inputs[0];
    if (op_.in_place && copies.empty() && first.flags().row_contiguous && first.is_donatable() &&
        first.size() == out.size()) {
      out.copy_shared_buffer(first);
    } else {
      give_memory(out);
    }
    encoder.dispatch([work = op_.work, views = std::move(views), copies = std::move(copies),
                      output = out.data<Real>(), size = out.size()] {
      for (auto [input, to] : copies) gather(input.data, input.shape, input.strides, 0, to);
      try {
        work(views, output);
      } catch (const std::bad_alloc&) {
        // Nobody catches on MLX's thread, so that throwing would end the process. The next operation throws in this
        // one's place; if none follows, numbers that are none tell.
        note_lack_of_memory();
        fill_with_nan(output, size);
      }
    });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error(op_.name + " is for the CPU");
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>&, const std::vector<mx::array>&, const std::vector<int>&,
                             const std::vector<mx::array>&) override {
    refuse("gradients");
  }

  std::vector<mx::array> jvp(const std::vector<mx::array>&, const std::vector<mx::array>&,
                             const std::vector<int>&) override {
    refuse("derivatives");
  }

  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>&,
                                                           const std::vector<int>&) override {
    refuse("mx.vmap");
  }

  const char* name() const override { return op_.name.c_str(); }

  bool is_equivalent(const Primitive& other) const override {
    const auto* lazy = dynamic_cast<const Lazy*>(&other);
    return lazy != nullptr && lazy->op_.name == op_.name;
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw std::invalid_argument(op_.name + " of mlxdiff's extension is not for " + what +
                                ". Set MLXDIFF_NATIVE=off in the environment: MLX's own operations are.");
  }

  Op<Real> op_;
};

}  // namespace

template <class Real>
mx::array lazily(Op<Real> op, mx::Shape shape, std::vector<mx::array> inputs) {
  const mx::Dtype type = std::is_same_v<Real, float> ? mx::float32 : mx::bfloat16;
  for (const auto& input : inputs) {
    if (input.dtype() != type && !(op.words && input.dtype() == mx::uint32)) throw std::invalid_argument(op.name + " takes arrays of one type, float32 or bfloat16");
  }
  if (type == mx::bfloat16 && !has_bf16()) throw std::invalid_argument("this processor has no products of bfloat16");
  auto primitive = std::make_shared<Lazy<Real>>(mx::default_stream(mx::Device::cpu), std::move(op));
  return mx::array(std::move(shape), type, std::move(primitive), std::move(inputs));
}

template mx::array lazily(Op<float>, mx::Shape, std::vector<mx::array>);
template mx::array lazily(Op<BFloat16>, mx::Shape, std::vector<mx::array>);

}  // namespace mlxdiff
