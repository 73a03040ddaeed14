// What this module uses of MLX's CUDA backend, declared here so that neither CUDA's headers nor a GPU is needed to
// compile it: functions that libmlx exports, and how the first fields of two of its classes lie in memory.
//
// hatch_build.py compares the fields with MLX's own header and does not compile the module where they differ.
// The functions are weak: in MLX's build for CPUs they are absent.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "mlx/array.h"
#include "mlx/stream.h"

#define MLX_WEAK __attribute__((weak, visibility("default")))

struct CUgraph_st;

namespace mlx::core::cu {

class Device {
 public:
  MLX_WEAK void make_current();
};

// MLX's name of it; its fields are in EncoderFields.
class CommandEncoder {
 public:
  MLX_WEAK void commit();
  MLX_WEAK void add_graph_node(CUgraph_st* child, const std::string& key, bool is_updatable);
  MLX_WEAK void add_completed_handler(std::function<void()> task);
};

MLX_WEAK CommandEncoder& get_command_encoder(Stream stream);

}  // namespace mlx::core::cu

namespace mlxdiff {

namespace mx = mlx::core;

struct GraphNode {
  void* node;
  std::string node_type;
  std::string id;
};

// The fields of mlx::core::cu::CommandEncoder up to the last one that is used.
struct EncoderFields {
  mx::cu::Device* device;
  void* stream;  // CUstream
  void* graph;
  std::shared_ptr<void> worker;
  int node_count;
  bool in_concurrent;
  std::vector<void*> from_nodes;
  std::vector<void*> to_nodes;
  std::string graph_nodes_key;
  std::string graph_deps_key;
  std::vector<GraphNode> concurrent_nodes;
  std::vector<std::shared_ptr<mx::array::Data>> temporaries;
};

// mlx::core::cu::CudaBuffer
struct BufferFields {
  void* data;
  size_t size;
  int device;  // -1 for memory that the CPU sees too
};

class Encoder {
 public:
  explicit Encoder(mx::Stream stream) : encoder_(mx::cu::get_command_encoder(stream)) {}
  explicit Encoder(mx::cu::CommandEncoder& encoder) : encoder_(encoder) {}

  void* stream() { return fields().stream; }
  void make_current() { fields().device->make_current(); }
  void commit() { encoder_.commit(); }
  int node_count() { return fields().node_count; }
  std::vector<std::shared_ptr<mx::array::Data>>& temporaries() { return fields().temporaries; }
  void when_done(std::function<void()> task) { encoder_.add_completed_handler(std::move(task)); }

 private:
  EncoderFields& fields() { return reinterpret_cast<EncoderFields&>(encoder_); }
  mx::cu::CommandEncoder& encoder_;
};

inline BufferFields* buffer_of(const mx::array& a) { return static_cast<BufferFields*>(a.buffer().ptr()); }

inline char* address_of(const mx::array& a) { return static_cast<char*>(buffer_of(a)->data) + a.offset(); }

}  // namespace mlxdiff
