#include "recording.h"

#include <algorithm>
#include <limits>
#include <mutex>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>

#include "driver.h"
#include "mlx/memory.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"
#include "mlx/transforms.h"

namespace mlxdiff {
namespace {

constexpr int NODES_AT_ONCE = 30;  // kernels that a rehearsal hands over together: as MLX does

thread_local bool recording = false;  // whether this thread captures

std::mutex one_at_a_time;  // a rehearsal changes what MLX keeps, and a recording needs what it finds there

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

using Data = std::shared_ptr<mx::array::Data>;

BufferFields* buffer_of(const Data& data) { return static_cast<BufferFields*>(data->buffer().ptr()); }

// Has a primitive compute, or capture, its outputs: all buffers that it allocates, and those of its outputs.
std::vector<Data> compute(mx::array& a, Encoder& encoder) {
  auto outputs = a.outputs();
  a.primitive().eval_gpu(a.inputs(), outputs);
  auto used = std::exchange(encoder.temporaries(), {});
  for (auto& output : outputs) {
    output.set_status(mx::array::evaluated);
    if (output.data_shared_ptr() != nullptr) used.push_back(output.data_shared_ptr());
  }
  return used;
}

// How many buffers of each size a call needs at once, if each is free as soon as the last operation that reads it has
// been launched.
class Plan {
 public:
  explicit Plan(const Buffers& leaves) : leaves_(leaves) {}

  void begin(const Data& data) {
    auto* buffer = buffer_of(data);
    if (buffer == nullptr || buffer->size == 0 || leaves_.count(buffer) > 0 || !live_.insert(buffer).second) return;
    auto& [now, most] = counts_[buffer->size];
    most = std::max(most, ++now);
  }

  void end(const Data& data) {
    auto* buffer = buffer_of(data);
    if (live_.erase(buffer) > 0) --counts_[buffer->size].first;
  }

  std::vector<size_t> sizes() const {
    std::vector<size_t> sizes;
    for (const auto& [size, count] : counts_) sizes.insert(sizes.end(), count.second, size);
    return sizes;
  }

 private:
  const Buffers& leaves_;
  Buffers live_;
  std::unordered_map<size_t, std::pair<int, int>> counts_;
};

// Computes an array as MLX does: what it read stays until the GPU is done. Nothing is told of its buffers before.
void rehearse_step(mx::array a, Encoder& encoder, Plan& plan) {
  auto held = compute(a, encoder);
  for (const auto& data : held) plan.begin(data);
  for (const auto& input : a.inputs()) held.push_back(input.data_shared_ptr());
  {
    auto done = std::move(a);
    done.detach();
  }
  std::unordered_map<Data::element_type*, long> ours;
  for (const auto& data : held) ++ours[data.get()];
  for (auto& data : held) {
    const auto found = ours.find(data.get());
    if (found == ours.end() || data.use_count() > found->second) continue;
    ours.erase(found);  // nobody else needs it, and one of our references is enough
    plan.end(data);
    encoder.temporaries().push_back(data);
  }
  if (encoder.node_count() > NODES_AT_ONCE) encoder.commit();
}

// Captures an array's operation. What it read is free at once: what comes later on this stream may use the same memory.
// Throws std::runtime_error where it uses other buffers than `allowed`.
void record_step(mx::array a, Encoder& encoder, const Buffers& allowed) {
  const size_t before = mx::get_active_memory() + mx::get_cache_memory();
  const auto used = compute(a, encoder);
  if (mx::get_active_memory() + mx::get_cache_memory() > before) {
    // The graph would own the new memory, and MLX must never use it: it is not given back.
    for (const auto& data : used) new Data(data);
    throw std::runtime_error("MLX asked for new memory");
  }
  for (const auto& data : used) {
    auto* buffer = buffer_of(data);
    if (buffer != nullptr && buffer->size > 0 && allowed.count(buffer) == 0) {
      throw std::runtime_error("MLX used memory of something else");
    }
  }
  a.detach();
}

// Waits for all that was asked of a stream, and until MLX has its buffers back.
void settle(mx::Stream stream) {
  mx::synchronize(stream);
  mx::synchronize(stream);  // a batch's buffers are let go just after its end is told
}

Buffers buffers_of(const std::vector<mx::array>& arrays) {
  Buffers buffers;
  for (const auto& a : arrays) buffers.insert(a.buffer().ptr());
  return buffers;
}

// While there is one, MLX keeps no free buffers.
class NoCache {
 public:
  NoCache() : limit_(mx::set_cache_limit(0)) { mx::clear_cache(); }
  ~NoCache() { mx::set_cache_limit(limit_); }
  NoCache(const NoCache&) = delete;
  NoCache& operator=(const NoCache&) = delete;

 private:
  size_t limit_;
};

// Of an array of so many bytes. An axis has 31 bits; large buffers are whole pages.
mx::Shape shape_of(size_t bytes) {
  constexpr size_t kPage = 1 << 14;
  if (bytes <= std::numeric_limits<int>::max()) return {static_cast<int>(bytes)};
  if (bytes % kPage != 0) throw std::runtime_error("a buffer has an odd size");
  return {static_cast<int>(bytes / kPage), static_cast<int>(kPage)};
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
  if (std::any_of(inputs.begin(), inputs.end(), [](const auto& input) { return input.is_tracer(); })) {
    throw std::runtime_error("its inputs are traced");
  }
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
  const std::lock_guard lock(one_at_a_time);
  Encoder encoder(stream_);
  settle(stream_);
  encoder.make_current();
  auto tape = tape_of(outputs, stream_);
  const auto leaves = buffers_of(tape.leaves);
  Plan plan(leaves);
  {
    const NoCache exact_sizes;  // a free buffer that is somewhat larger would do, too
    while (!tape.todo.empty()) {
      auto a = std::move(tape.todo.back());
      tape.todo.pop_back();
      rehearse_step(std::move(a), encoder, plan);
    }
    settle(stream_);
  }
  plan_ = plan.sizes();
}

void Recording::record(std::vector<mx::array> outputs, size_t most) {
  const std::lock_guard lock(one_at_a_time);
  for (const size_t size : plan_) nbytes_ += size;
  if (nbytes_ > most) throw std::runtime_error("its buffers take " + std::to_string(nbytes_ >> 20) + " MiB");
  Encoder encoder(stream_);
  settle(stream_);
  mx::clear_cache();
  const auto buffers = buffers_of(arrays_of(plan_));  // free again, and the only ones that MLX can hand out
  settle(stream_);
  encoder.make_current();
  auto tape = tape_of(outputs, stream_);
  leaves_ = std::move(tape.leaves);  // held, so that no operation takes their memory for its output
  auto allowed = buffers_of(leaves_);
  allowed.insert(buffers.begin(), buffers.end());
  void* graph = nullptr;
  const auto& cuda = driver();
  cuda.check(cuda.begin_capture(encoder.stream(), RELAXED), "cuStreamBeginCapture");
  recording = true;
  try {
    while (!tape.todo.empty()) {
      auto a = std::move(tape.todo.back());
      tape.todo.pop_back();
      record_step(std::move(a), encoder, allowed);
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
  check_nodes(graph);

  auto between = buffers;
  for (const auto& output : outputs) {
    if (!output.flags().row_contiguous) throw std::runtime_error("an output is not row-major");
    between.erase(output.buffer().ptr());
  }
  own(std::move(between));
  outputs_ = std::move(outputs);
  for (const auto* arrays : {&inputs_, &leaves_, &owned_, &outputs_}) {
    for (const auto& a : *arrays) places_.emplace_back(buffer_of(a), buffer_of(a)->data);
  }
  cuda.check(cuda.instantiate(&exec_, graph, 0), "cuGraphInstantiate");
  cuda.check(cuda.upload(exec_, encoder.stream()), "cuGraphUpload");
}

// Throws std::runtime_error unless a graph has nothing but what can be replayed any number of times.
void Recording::check_nodes(void* graph) {
  const auto& cuda = driver();
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
}

// Evaluated arrays of these many bytes.
std::vector<mx::array> Recording::arrays_of(const std::vector<size_t>& sizes) const {
  std::vector<mx::array> made;
  for (const size_t size : sizes) made.push_back(mx::zeros(shape_of(size), mx::uint8, stream_));
  mx::eval(made);
  return made;
}

// Takes these buffers out of MLX's store of free ones: arrays of their sizes are made until all have come up.
void Recording::own(std::unordered_set<void*> buffers) {
  std::vector<mx::array> others;
  for (int round = 0; round < 4 && !buffers.empty(); ++round) {
    std::vector<size_t> sizes;
    for (void* buffer : buffers) sizes.push_back(static_cast<BufferFields*>(buffer)->size);
    for (auto& a : arrays_of(sizes)) (buffers.erase(a.buffer().ptr()) > 0 ? owned_ : others).push_back(std::move(a));
  }
  if (!buffers.empty()) throw std::runtime_error("another thread took its memory");
}

bool Recording::in_place() const {
  return std::all_of(places_.begin(), places_.end(), [](const auto& place) { return place.first->data == place.second; });
}

bool Recording::takes(const std::vector<mx::array>& inputs) const {
  if (exec_ == nullptr || inputs.size() != inputs_.size() || !in_place()) return false;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const auto &given = inputs[i], &recorded = inputs_[i];
    if (given.dtype() != recorded.dtype() || given.shape() != recorded.shape() || given.is_tracer()) return false;
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
