#include "scratch.h"

#include <cstdlib>
#include <new>

namespace mlxdiff {
namespace {

std::mutex mutex;
float* memory = nullptr;
int64_t size = 0;

}  // namespace

Scratch::Scratch(int64_t floats) : lock_(mutex) {
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
