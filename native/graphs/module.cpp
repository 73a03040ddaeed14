// The Python module mlxdiff.kernels._graphs.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include "recording.h"

namespace nb = nanobind;
using namespace nb::literals;
using mlxdiff::Recording;

// MLX's threads may need the interpreter to let go of arrays that these functions wait for.
using WithoutInterpreter = nb::call_guard<nb::gil_scoped_release>;

NB_MODULE(_graphs, m) {
  nb::set_leak_warnings(false);  // a recording that is still there when Python ends is no fault
  m.def("available", &mlxdiff::available);
  m.def("add_graph_node", [] { return reinterpret_cast<uintptr_t>(&mlxdiff::add_graph_node); });  // its address
  m.def("stream", [] { return mlx::core::default_stream(mlx::core::Device::gpu).index; });
  nb::class_<Recording>(m, "Recording")
      .def_prop_ro("inputs", &Recording::inputs)
      .def_prop_ro("nodes", &Recording::nodes)
      .def_prop_ro("nbytes", &Recording::nbytes)
      .def("rehearse", &Recording::rehearse, "outputs"_a, WithoutInterpreter())
      .def("record", &Recording::record, "outputs"_a, "most"_a, WithoutInterpreter())
      .def("takes", &Recording::takes, "inputs"_a)
      .def("replay", &Recording::replay, "inputs"_a);
  m.def("recording", &Recording::of, "inputs"_a, WithoutInterpreter());
}
