#include "recording.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <unordered_map>

#include "driver.h"
#include "mlx/memory.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"
#include "mlx/transforms.h"

namespace mlxdiff {
namespace {

constexpr int NODES_AT_ONCE = 30;  // kernels that a rehearsal hands over together: as MLX does

thread_local bool recording = false;  // whether this thread captures

using Buffers = std::unordered_set<void*>;

// What is to be computed for some outputs: the last first, so that each is taken off the end; and what is there.
struct Tape {
  std::vector<mx::array> todo;
  std::vector<mx::array> leaves;
};

Tape tape_of(const std::vector<mx::array>& outputs, mx::Stream stream) {
  Tape tape;
  std::unordered_set<std::uintptr_t> seen;
  std::vector<std::pair<mx::array, size_t>> path;
  const auto visit = [&](const mx::array& a) {
    if (!seen.insert(a.id()).second) return;
    for (const auto& sibling : a.siblings()) seen.insert(sibling.id());
    if (a.status() != mx::array::unscheduled || !a.has_primitive()) {
      tape.leaves.push_back(a);
    } else if (a.primitive().stream() != stream) {
      throw std::runtime_error(std::string(a.primitive().name()) + " is on another stream");
    } else {
      path.emplace_back(a, 0);
    }
  };
  for (const auto& output : outputs) {
    visit(output);
    while (!path.empty()) {
      auto& [a, next] = path.back();
      if (next < a.inputs().size()) {
        visit(a.inputs()[next++]);  // may move `path`
      } else {
        tape.todo.push_back(a);
        path.pop_back();
      }
    }
  }
  std::reverse(tape.todo.begin(), tape.todo.end());
  return tape;
}

// Has a primitive compute, or capture, its outputs, and lets its inputs go. Adds the buffers that it uses.
void step(mx::array a, Encoder& encoder, bool capturing, const Buffers& leaves, std::unordered_map<void*, size_t>& used) {
  auto outputs = a.outputs();
  const size_t held = capturing ? mx::get_active_memory() + mx::get_cache_memory() : 0;
  a.primitive().eval_gpu(a.inputs(), outputs);
  if (capturing && mx::get_active_memory() + mx::get_cache_memory() > held) {
    // MLX had no such buffer, so that the graph would own a new one, and MLX must never use it: it is never freed.
    for (const auto& output : outputs) new std::shared_ptr(output.data_shared_ptr());
    for (const auto& data : encoder.temporaries()) new std::shared_ptr(data);
    throw std::runtime_error("MLX asked for new memory");
  }
  const auto note = [&](const std::shared_ptr<mx::array::Data>& data) {
    if (data == nullptr) return;
    auto* buffer = static_cast<BufferFields*>(data->buffer().ptr());
    if (buffer != nullptr && buffer->size > 0 && leaves.count(buffer) == 0) used[buffer] = buffer->size;
  };
  for (auto& output : outputs) {
    output.set_status(mx::array::evaluated);
    note(output.data_shared_ptr());
  }
  auto& temporaries = encoder.temporaries();
  for (const auto& data : temporaries) note(data);
  if (capturing) {
    temporaries.clear();  // what comes later on this stream may use the same memory
  } else {
    for (const auto& input : a.inputs()) {
      if (input.data_shared_ptr() != a.data_shared_ptr()) temporaries.push_back(input.data_shared_ptr());
    }
    if (encoder.node_count() > NODES_AT_ONCE) encoder.commit();
  }
  a.detach();
}

// Waits for all that was asked of a stream, and until MLX has its buffers back.
void settle(mx::Stream stream) {
  mx::synchronize(stream);
  mx::synchronize(stream);  // a batch's buffers are let go just after its end is told
}

mx::array contiguous(const mx::array& a, mx::Stream stream) {
  const bool known = a.status() != mx::array::unscheduled;
  return known && a.flags().row_contiguous ? a : mx::contiguous(a, false, stream);
}

}  // namespace

// The launch of a recording as an operation of MLX. Inputs: a buffer for each output, then the recording's inputs.
class Replay : public mx::Primitive {
 public:
  Replay(mx::Stream stream, std::shared_ptr<Recording> recording)
      : Primitive(stream), recording_(std::move(recording)) {}

  void eval_cpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("Replay is for NVIDIA GPUs");
  }

  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    recording_->launch(inputs, outputs);
  }

  const char* name() const override { return "Replay"; }

 private:
  std::shared_ptr<Recording> recording_;
};

void add_graph_node(mx::cu::CommandEncoder* encoder, CUgraph_st* child, const std::string& key, bool is_updatable) {
  if (!recording) return encoder->add_graph_node(child, key, is_updatable);
  // A graph cannot be launched on a stream that is captured, but joined to what was captured so far.
  const auto& cuda = driver();
  void* stream = Encoder(*encoder).stream();
  int status = 0;
  unsigned long long id = 0;
  void *graph = nullptr, *node = nullptr;
  void* const* last = nullptr;
  size_t count = 0;
  cuda.check(cuda.capture_info(stream, &status, &id, &graph, &last, &count), "cuStreamGetCaptureInfo");
  cuda.check(cuda.add_child(&node, graph, last, count, child), "cuGraphAddChildGraphNode");
  cuda.check(cuda.set_dependencies(stream, &node, 1, ONLY_THESE), "cuStreamUpdateCaptureDependencies");
}

bool available() {
  if (&mx::cu::get_command_encoder == nullptr) return false;
  try {
    driver();
  } catch (const std::runtime_error&) {
    return false;
  }
  return true;
}

std::shared_ptr<Recording> Recording::of(const std::vector<mx::array>& inputs) {
  if (!available()) throw std::runtime_error("MLX does not run on CUDA");
  const auto stream = mx::default_stream(mx::Device::gpu);
  std::shared_ptr<Recording> made(new Recording(stream));
  std::vector<mx::array> sources;
  for (const auto& input : inputs) {
    sources.push_back(contiguous(input, stream));
    made->inputs_.push_back(mx::zeros(input.shape(), input.dtype(), stream));
  }
  mx::eval(sources);
  mx::eval(made->inputs_);
  made->load(sources, 0);
  return made;
}

Recording::~Recording() {
  if (exec_ != nullptr) driver().destroy_exec(exec_);
}

void Recording::rehearse(const std::vector<mx::array>& outputs) {
  Encoder encoder(stream_);
  encoder.make_current();
  auto tape = tape_of(outputs, stream_);
  std::unordered_map<void*, size_t> used;
  while (!tape.todo.empty()) {
    auto a = std::move(tape.todo.back());
    tape.todo.pop_back();
    step(std::move(a), encoder, false, {}, used);
  }
  settle(stream_);
  // The outputs keep their buffers, and a recording needs as many.
  std::vector<mx::array> spare;
  for (const auto& output : outputs) spare.push_back(mx::zeros(output.shape(), output.dtype(), stream_));
  mx::eval(spare);
  settle(stream_);
}

void Recording::record(std::vector<mx::array> outputs, size_t most) {
  Encoder encoder(stream_);
  settle(stream_);
  encoder.make_current();
  auto tape = tape_of(outputs, stream_);
  leaves_ = std::move(tape.leaves);  // held, so that no operation takes their memory for its output
  Buffers leaves;
  for (const auto& leaf : leaves_) leaves.insert(leaf.buffer().ptr());
  std::unordered_map<void*, size_t> used;
  void* graph = nullptr;
  const auto& cuda = driver();
  cuda.check(cuda.begin_capture(encoder.stream(), RELAXED), "cuStreamBeginCapture");
  recording = true;
  try {
    while (!tape.todo.empty()) {
      auto a = std::move(tape.todo.back());
      tape.todo.pop_back();
      step(std::move(a), encoder, true, leaves, used);
    }
    recording = false;
  } catch (...) {
    recording = false;
    cuda.end_capture(encoder.stream(), &graph);
    if (graph != nullptr) cuda.destroy_graph(graph);
    throw;
  }
  cuda.check(cuda.end_capture(encoder.stream(), &graph), "cuStreamEndCapture");
  const std::unique_ptr<void, int (*)(void*)> captured(graph, cuda.destroy_graph);
  cuda.check(cuda.get_nodes(graph, nullptr, &nodes_), "cuGraphGetNodes");
  std::vector<void*> nodes(nodes_);
  cuda.check(cuda.get_nodes(graph, nodes.data(), &nodes_), "cuGraphGetNodes");
  for (void* node : nodes) {
    int type = -1;
    cuda.check(cuda.node_type(node, &type), "cuGraphNodeGetType");
    if (type != KERNEL && type != MEMCPY && type != MEMSET && type != CHILD && type != EMPTY) {
      throw std::runtime_error("the call has a node of type " + std::to_string(type));
    }
  }
  if (nodes_ == 0) throw std::runtime_error("nothing was captured");

  Buffers between;
  for (const auto& [buffer, size] : used) {
    between.insert(buffer);
    nbytes_ += size;
  }
  for (const auto& output : outputs) {
    if (!output.flags().row_contiguous) throw std::runtime_error("an output is not row-major");
    if (between.erase(output.buffer().ptr()) > 0) nbytes_ -= buffer_of(output)->size;
  }
  if (nbytes_ > most) throw std::runtime_error("it takes " + std::to_string(nbytes_ >> 20) + " MiB");
  own(std::move(between));
  outputs_ = std::move(outputs);
  for (const auto* arrays : {&inputs_, &leaves_, &owned_, &outputs_}) {
    for (const auto& a : *arrays) places_.emplace_back(buffer_of(a), buffer_of(a)->data);
  }
  cuda.check(cuda.instantiate(&exec_, graph, 0), "cuGraphInstantiate");
  cuda.check(cuda.upload(exec_, encoder.stream()), "cuGraphUpload");
}

// Takes these buffers out of MLX's store of free ones: arrays of their sizes are made until all have come up.
void Recording::own(std::unordered_set<void*> buffers) {
  std::vector<mx::array> others;
  for (int round = 0; round < 8 && !buffers.empty(); ++round) {
    std::vector<mx::array> made;
    for (void* buffer : buffers) {
      const auto size = static_cast<int>(static_cast<BufferFields*>(buffer)->size);
      made.push_back(mx::zeros({size}, mx::uint8, stream_));
    }
    mx::eval(made);
    for (auto& a : made) (buffers.erase(a.buffer().ptr()) > 0 ? owned_ : others).push_back(std::move(a));
  }
  if (!buffers.empty()) throw std::runtime_error("another thread took its memory");
}

bool Recording::in_place() const {
  return std::all_of(places_.begin(), places_.end(), [](const auto& place) { return place.first->data == place.second; });
}

bool Recording::takes(const std::vector<mx::array>& inputs) const {
  if (exec_ == nullptr || inputs.size() != inputs_.size() || !in_place()) return false;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].dtype() != inputs_[i].dtype() || inputs[i].shape() != inputs_[i].shape()) return false;
  }
  return true;
}

std::vector<mx::array> Recording::replay(const std::vector<mx::array>& inputs) {
  if (!takes(inputs)) throw std::invalid_argument("these inputs were not recorded");
  std::vector<mx::array> all;
  std::vector<mx::Shape> shapes;
  std::vector<mx::Dtype> dtypes;
  for (const auto& output : outputs_) {
    all.push_back(mx::zeros(output.shape(), output.dtype(), stream_));
    shapes.push_back(output.shape());
    dtypes.push_back(output.dtype());
  }
  for (const auto& input : inputs) all.push_back(contiguous(input, stream_));
  auto primitive = std::make_shared<Replay>(stream_, shared_from_this());
  return mx::array::make_arrays(std::move(shapes), dtypes, primitive, all);
}

// Copies the inputs, which are behind `first` others, to where the graph reads them, but for those that are there.
void Recording::load(const std::vector<mx::array>& inputs, size_t first) {
  Encoder encoder(stream_);
  encoder.make_current();
  const auto& cuda = driver();
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const auto& input = inputs[first + i];
    if (i < loaded_.size() && loaded_[i].id() == input.id()) continue;
    const auto to = reinterpret_cast<unsigned long long>(address_of(inputs_[i]));
    const auto from = reinterpret_cast<unsigned long long>(address_of(input));
    cuda.check(cuda.copy(to, from, input.nbytes(), encoder.stream()), "cuMemcpyAsync");
    if (i < loaded_.size()) {
      loaded_[i] = input;
    } else {
      loaded_.push_back(input);
    }
  }
}

void Recording::launch(const std::vector<mx::array>& inputs, const std::vector<mx::array>& outputs) {
  if (!in_place()) throw std::runtime_error("an array of the recorded call was read on the CPU while it waited");
  Encoder encoder(stream_);
  encoder.make_current();
  const auto& cuda = driver();
  load(inputs, outputs.size());
  cuda.check(cuda.launch(exec_, encoder.stream()), "cuGraphLaunch");
  for (size_t i = 0; i < outputs.size(); ++i) {
    auto output = outputs[i];
    output.copy_shared_buffer(inputs[i]);
    const auto to = reinterpret_cast<unsigned long long>(address_of(output));
    const auto from = reinterpret_cast<unsigned long long>(address_of(outputs_[i]));
    cuda.check(cuda.copy(to, from, outputs_[i].nbytes(), encoder.stream()), "cuMemcpyAsync");
  }
  encoder.when_done([self = shared_from_this()] {});  // its buffers stay until the GPU is done
}

}  // namespace mlxdiff
