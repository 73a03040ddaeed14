// The functions of CUDA's driver that capture and launch graphs, found at run time in the driver that MLX has loaded.
#pragma once

#include <dlfcn.h>

#include <stdexcept>
#include <string>

namespace mlxdiff {

struct Driver {
  int (*begin_capture)(void* stream, int mode);
  int (*end_capture)(void* stream, void** graph);
  int (*capture_info)(void* stream, int* status, unsigned long long* id, void** graph, void* const** nodes, size_t* count);
  int (*set_dependencies)(void* stream, void** nodes, size_t count, unsigned flags);
  int (*add_child)(void** node, void* graph, void* const* after, size_t count, void* child);
  int (*instantiate)(void** exec, void* graph, unsigned long long flags);
  int (*upload)(void* exec, void* stream);
  int (*launch)(void* exec, void* stream);
  int (*destroy_graph)(void* graph);
  int (*destroy_exec)(void* exec);
  int (*get_nodes)(void* graph, void** nodes, size_t* count);
  int (*node_type)(void* node, int* type);
  int (*copy)(unsigned long long to, unsigned long long from, size_t bytes, void* stream);
  int (*error_name)(int error, const char** name);

  // Throws std::runtime_error where there is no driver, or one without these functions.
  Driver() {
    void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    if (library == nullptr) throw std::runtime_error("CUDA's driver is not loaded");
    const auto find = [library](auto& function, const char* name) {
      void* found = dlsym(library, name);
      if (found == nullptr) throw std::runtime_error(std::string("CUDA's driver has no ") + name);
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(found);
    };
    find(begin_capture, "cuStreamBeginCapture_v2");
    find(end_capture, "cuStreamEndCapture");
    find(capture_info, "cuStreamGetCaptureInfo_v2");
    find(set_dependencies, "cuStreamUpdateCaptureDependencies");
    find(add_child, "cuGraphAddChildGraphNode");
    find(instantiate, "cuGraphInstantiateWithFlags");
    find(upload, "cuGraphUpload");
    find(launch, "cuGraphLaunch");
    find(destroy_graph, "cuGraphDestroy");
    find(destroy_exec, "cuGraphExecDestroy");
    find(get_nodes, "cuGraphGetNodes");
    find(node_type, "cuGraphNodeGetType");
    find(copy, "cuMemcpyAsync");
    find(error_name, "cuGetErrorName");
  }

  // Throws std::runtime_error unless `error` is success.
  void check(int error, const char* what) const {
    if (error == 0) return;
    const char* name = nullptr;
    error_name(error, &name);
    throw std::runtime_error(std::string(what) + " failed: " + (name == nullptr ? std::to_string(error) : name));
  }
};

inline const Driver& driver() {
  static const Driver driver;
  return driver;
}

// Types of a graph's nodes (CUgraphNodeType) that may be replayed from fixed buffers.
constexpr int KERNEL = 0, MEMCPY = 1, MEMSET = 2, CHILD = 4, EMPTY = 5;
constexpr int RELAXED = 2;           // CU_STREAM_CAPTURE_MODE_RELAXED
constexpr unsigned ONLY_THESE = 1;  // CU_STREAM_SET_CAPTURE_DEPENDENCIES

}  // namespace mlxdiff
