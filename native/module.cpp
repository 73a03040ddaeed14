// The Python module mlxdiff.kernels._native.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "isa.h"
#include "ops.h"
#include "pool.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

// OpenBLAS's interface for threads that are somebody else's: run job(i, data + i * size, argument) for each i < n.
using Job = void (*)(int i, void* data, int argument);

void schedule(int, Job job, int n, size_t size, void* data, int argument) {
  // The jobs wait for each other, so that each needs a thread.
  if (n > mlxdiff::pool().threads()) mlxdiff::pool().resize(n);
  mlxdiff::pool().parallel_for(n, [=](int64_t i, int) {
    job(static_cast<int>(i), static_cast<char*>(data) + i * size, argument);
  });
}

// address: of OpenBLAS's openblas_set_threads_callback_function. From then on its products run on our pool; its own
// threads would spin for a while after each product, on the cores that we need.
void share_threads(uintptr_t address) {
  using Scheduler = void (*)(int, Job, int, size_t, void*, int);
  reinterpret_cast<void (*)(Scheduler)>(address)(&schedule);
}

}  // namespace

NB_MODULE(_native, m) {
  m.def("set_threads", [](int threads) { mlxdiff::pool().resize(threads); }, "threads"_a);
  m.def("threads", [] { return mlxdiff::pool().threads(); });
  m.def("share_threads", &share_threads, "address"_a);
  m.def("instruction_sets", &mlxdiff::instruction_sets);
  m.def("instruction_set", [] { return std::string(mlxdiff::kernels<float>().instruction_set); });
  m.def("use_instruction_set", &mlxdiff::use_instruction_set, "name"_a);

  m.def("has_bf16", &mlxdiff::has_bf16);

  m.def("silu", &mlxdiff::silu, "x"_a);
  m.def("gelu", &mlxdiff::gelu, "x"_a);
  m.def("quick_gelu", &mlxdiff::quick_gelu, "x"_a);
  m.def("geglu", &mlxdiff::geglu, "x"_a);
  m.def("add_biased", &mlxdiff::add_biased, "x"_a, "y"_a, "bias"_a);
  m.def("layer_norm", &mlxdiff::layer_norm, "x"_a, "weight"_a, "bias"_a, "eps"_a);
  m.def("group_norm", &mlxdiff::group_norm, "x"_a, "weight"_a, "bias"_a, "groups"_a, "eps"_a,
        "shift"_a = nb::none(), "silu"_a = false);
  m.def("attention", &mlxdiff::attention, "q"_a, "k"_a, "v"_a, "heads"_a, "mask"_a = nb::none());
  m.def("convolve", &mlxdiff::convolve, "x"_a, "weights"_a, "bias"_a.none(), "stride"_a, "padding"_a);
  m.def("linear", &mlxdiff::linear, "x"_a, "weights"_a, "bias"_a.none());
}
