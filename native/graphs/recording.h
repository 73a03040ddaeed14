// A call of a network that is recorded once as a CUDA graph and then launched as a whole.
#pragma once

#include <memory>
#include <unordered_set>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlx_cuda.h"

namespace mlxdiff {

// A pure function of arrays on one of MLX's streams, in fixed buffers: copies of its inputs, whatever it computes in
// between, its outputs. Nothing of this is shared with MLX's own memory as long as the recording lives.
//
//   1. the function is called on inputs(), and rehearse() evaluates what it gives, as MLX does
//   2. the function is called on inputs() again, and record() captures what it gives without computing it
//   3. replay() gives the outputs for other inputs: lazy arrays
class Recording : public std::enable_shared_from_this<Recording> {
 public:
  // inputs: of the first call. Evaluates them. Throws std::runtime_error where MLX's backend is not CUDA's.
  static std::shared_ptr<Recording> of(const std::vector<mx::array>& inputs);
  ~Recording();

  // Row-major copies, which the recorded function is called on.
  const std::vector<mx::array>& inputs() const { return inputs_; }

  // Evaluates outputs of inputs(), so that all code is loaded, and sees which buffers a call needs.
  void rehearse(const std::vector<mx::array>& outputs);

  // Captures outputs of inputs(), which must not be used afterwards. Throws std::runtime_error where that cannot be
  // done, or buffers of more than `most` bytes would be held.
  void record(std::vector<mx::array> outputs, size_t most);

  // Whether these inputs are of the shapes and types that were recorded, and no buffer has moved since.
  bool takes(const std::vector<mx::array>& inputs) const;

  // The outputs for inputs that it takes, unevaluated. Throws std::invalid_argument for others.
  std::vector<mx::array> replay(const std::vector<mx::array>& inputs);

  size_t nodes() const { return nodes_; }   // of the graph
  size_t nbytes() const { return nbytes_; }  // of the buffers that it holds, without inputs

 private:
  friend class Replay;
  explicit Recording(mx::Stream stream) : stream_(stream) {}

  void load(const std::vector<mx::array>& inputs, size_t first);
  void launch(const std::vector<mx::array>& inputs, const std::vector<mx::array>& outputs);
  void own(std::unordered_set<void*> buffers);
  void check_nodes(void* graph);
  std::vector<mx::array> arrays_of(const std::vector<size_t>& sizes) const;
  bool in_place() const;

  mx::Stream stream_;
  std::vector<mx::array> inputs_, outputs_;
  std::vector<mx::array> loaded_;  // what inputs_ hold a copy of
  std::vector<mx::array> leaves_;  // what the function reads besides: weights
  std::vector<mx::array> owned_;   // buffers in between
  // Where each buffer was. MLX moves one to memory that the CPU sees when somebody reads it there.
  std::vector<std::pair<const BufferFields*, const void*>> places_;
  std::vector<size_t> plan_;  // sizes of the buffers that a call needs at once
  void* exec_ = nullptr;
  size_t nodes_ = 0, nbytes_ = 0;
};

// What MLX is to call in place of CommandEncoder::add_graph_node, which launches a graph of cuDNN's: while a recording is
// made in this thread, the graph becomes a node of it.
void add_graph_node(mx::cu::CommandEncoder* encoder, CUgraph_st* child, const std::string& key, bool is_updatable);

// Whether MLX's CUDA backend and a driver are there.
bool available();

}  // namespace mlxdiff
