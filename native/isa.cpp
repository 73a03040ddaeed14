#include "isa.h"

#include <atomic>
#include <stdexcept>

namespace mlxdiff {

#if defined(__x86_64__)
namespace baseline { extern const Kernels table; }
namespace avx2 { extern const Kernels table; }
namespace avx512 { extern const Kernels table; }
#elif defined(__aarch64__)
namespace neon { extern const Kernels table; }
#else
namespace baseline { extern const Kernels table; }
#endif

namespace {

std::vector<const Kernels*> available() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  std::vector<const Kernels*> found{&baseline::table};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&avx2::table);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && found.size() == 2) {
    found.push_back(&avx512::table);
  }
  return found;
#elif defined(__aarch64__)
  return {&neon::table};
#else
  return {&baseline::table};
#endif
}

std::atomic<const Kernels*>& chosen() {
  static std::atomic<const Kernels*> one{available().back()};
  return one;
}

}  // namespace

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Kernels* one : available()) names.emplace_back(one->instruction_set);
  return names;
}

void use_instruction_set(const std::string& name) {
  for (const Kernels* one : available()) {
    if (one->instruction_set == name) {
      chosen() = one;
      return;
    }
  }
  throw std::invalid_argument("this processor, or this build, lacks " + name);
}

const Kernels& kernels() { return *chosen().load(std::memory_order_relaxed); }

}  // namespace mlxdiff
