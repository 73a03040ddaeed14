// The Python module mlxdiff.kernels._native.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "isa.h"
#include "load.h"
#include "matmul.h"
#include "ops.h"
#include "pool.h"
#include "scratch.h"

namespace nb = nanobind;
using namespace nb::literals;

NB_MODULE(_native, m) {
  m.def("set_threads", [](int threads, bool follow_load) { mlxdiff::pool().resize(threads, follow_load); },
        "threads"_a, "follow_load"_a = false);
  m.def("threads", [] { return mlxdiff::pool().threads(); });
  m.def("active_threads", [] { return mlxdiff::pool().active(); });
  m.def("watch_load", [](const std::string& path) { mlxdiff::pool().watch(path); }, "path"_a);
  m.def("free_cores", &mlxdiff::free_cores, "cores"_a, "allowed"_a, "idle"_a, "own"_a, "elapsed"_a);
  // The address of a function that takes the place of cblas_sgemm.
  m.def("sgemm", [] { return reinterpret_cast<uintptr_t>(&mlxdiff::sgemm); });
  m.def("instruction_sets", &mlxdiff::instruction_sets);
  m.def("instruction_set", [] { return std::string(mlxdiff::kernels<float>().instruction_set); });
  m.def("use_instruction_set", &mlxdiff::use_instruction_set, "name"_a);

  m.def("limit_scratch", &mlxdiff::limit_scratch, "floats"_a);
  // Whether an operation lacked memory since somebody asked last: its numbers are NaN.
  m.def("lacked_memory", &mlxdiff::lacked_memory);
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
  m.def("pack", &mlxdiff::pack, "weights"_a);
  m.def("convolve", &mlxdiff::convolve, "x"_a, "weights"_a, "bias"_a.none(), "stride"_a, "padding"_a);
  m.def("quantized_linear", &mlxdiff::quantized_linear, "x"_a, "weights"_a, "scales"_a, "biases"_a, "group_size"_a,
        "bits"_a);
  m.def("linear_geglu", &mlxdiff::linear_geglu, "x"_a, "weights"_a, "bias"_a.none());
  m.def("linear", &mlxdiff::linear, "x"_a, "weights"_a, "bias"_a.none());
}
