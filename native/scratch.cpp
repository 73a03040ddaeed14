#include "scratch.h"

#include <atomic>
#include <cstdlib>
#include <limits>
#include <new>

namespace mlxdiff {
namespace {

std::mutex mutex;
float* memory = nullptr;
int64_t size = 0, limit = std::numeric_limits<int64_t>::max();
std::atomic<bool> lacked{false};

}  // namespace

void limit_scratch(int64_t floats) {
  std::lock_guard lock(mutex);
  limit = floats;
  std::free(memory);
  memory = nullptr;
  size = 0;
}

void note_lack_of_memory() { lacked = true; }
bool lacked_memory() { return lacked.exchange(false); }

Scratch::Scratch(int64_t floats) : lock_(mutex) {
  if (floats > limit) throw std::bad_alloc();
  if (floats > size) {
    std::free(memory);
    memory = nullptr;  // it stays free where the next line finds none
    size = 0;
    const int64_t bytes = (floats * 4 + 63) / 64 * 64;
    memory = static_cast<float*>(std::aligned_alloc(64, bytes));
    if (memory == nullptr) throw std::bad_alloc();
    size = floats;
  }
  data_ = memory;
}

}  // namespace mlxdiff
