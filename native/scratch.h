// Memory that an operation needs while it runs; it is kept, since fresh pages cost more than the work on them.
#pragma once

#include <cstdint>
#include <mutex>

namespace mlxdiff {

// Most floats that scratch memory may take from now on; more is a std::bad_alloc, as where the system has no more.
void limit_scratch(int64_t floats);

// Operations run on threads where nobody catches: they note that memory was lacking, for who asks next, and then it is
// forgotten.
void note_lack_of_memory();
bool lacked_memory();

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
