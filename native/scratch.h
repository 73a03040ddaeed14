// Memory that an operation needs while it runs; it is kept, since fresh pages cost more than the work on them.
#pragma once

#include <cstdint>
#include <mutex>

namespace mlxdiff {

// Holds the only scratch memory for as long as it lives; another operation waits meanwhile.
class Scratch {
 public:
  explicit Scratch(int64_t floats);
  float* data() const { return data_; }  // aligned to 64 bytes

 private:
  std::unique_lock<std::mutex> lock_;
  float* data_;
};

}  // namespace mlxdiff
