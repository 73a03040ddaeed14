#include "ops.h"

#include <algorithm>
#include <stdexcept>

#include "isa.h"
#include "op.h"

namespace mlxdiff {
namespace {

// Elements that a thread takes at a time: a few microseconds' work, 32 KiB.
constexpr int64_t kGrain = 8192;

using Elementwise = void (*Kernels::*)(const float*, float*, int64_t);

mx::array elementwise(const char* name, Elementwise kernel, const mx::array& x) {
  auto work = [kernel, n = static_cast<int64_t>(x.size())](const std::vector<Input>& in, float* out) {
    const auto run = kernels().*kernel;
    const float* x = in[0].data;
    pool().parallel_for((n + kGrain - 1) / kGrain, [=](int64_t i, int) {
      run(x + i * kGrain, out + i * kGrain, std::min(kGrain, n - i * kGrain));
    });
  };
  return lazily({.name = name, .work = work, .in_place = true}, x.shape(), {x});
}

}  // namespace

mx::array silu(const mx::array& x) { return elementwise("silu", &Kernels::silu, x); }
mx::array gelu(const mx::array& x) { return elementwise("gelu", &Kernels::gelu, x); }
mx::array quick_gelu(const mx::array& x) { return elementwise("quick_gelu", &Kernels::quick_gelu, x); }

mx::array geglu(const mx::array& x) {
  if (x.ndim() == 0 || x.shape(-1) % 2 != 0) throw std::invalid_argument("geglu takes an even last axis");
  const int64_t width = x.shape(-1) / 2;
  const int64_t rows = width == 0 ? 0 : static_cast<int64_t>(x.size()) / (2 * width);
  auto work = [rows, width](const std::vector<Input>& in, float* out) {
    const int64_t grain = std::max<int64_t>(1, kGrain / width);
    const auto run = kernels().geglu;
    const float* x = in[0].data;
    pool().parallel_for((rows + grain - 1) / grain, [=](int64_t i, int) {
      run(x + 2 * width * grain * i, out + width * grain * i, std::min(grain, rows - i * grain), width);
    });
  };
  auto shape = x.shape();
  shape.back() = static_cast<int>(width);
  return lazily({.name = "geglu", .work = work}, shape, {x});
}

}  // namespace mlxdiff
