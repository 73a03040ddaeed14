#include "isa.h"

#include <atomic>
#include <stdexcept>

namespace mlxdiff {

#if defined(__x86_64__)
namespace baseline { extern const Kernels<float> table; }
namespace avx2 { extern const Kernels<float> table; }
namespace avx512 { extern const Kernels<float> table; }
namespace avx512_bf16 { extern const Kernels<BFloat16> table; }
#elif defined(__aarch64__)
namespace neon { extern const Kernels<float> table; }
#else
namespace baseline { extern const Kernels<float> table; }
#endif

namespace {

std::vector<const Kernels<float>*> available() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  std::vector<const Kernels<float>*> found{&baseline::table};
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

std::atomic<const Kernels<float>*>& chosen() {
  static std::atomic<const Kernels<float>*> one{available().back()};
  return one;
}

}  // namespace

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Kernels<float>* one : available()) names.emplace_back(one->instruction_set);
  return names;
}

void use_instruction_set(const std::string& name) {
  for (const Kernels<float>* one : available()) {
    if (one->instruction_set == name) {
      chosen() = one;
      return;
    }
  }
  throw std::invalid_argument("this processor, or this build, lacks " + name);
}

bool has_bf16() {
#if defined(__x86_64__)
  return chosen().load() == &avx512::table && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

template <>
const Kernels<float>& kernels<float>() {
  return *chosen().load(std::memory_order_relaxed);
}

template <>
const Kernels<BFloat16>& kernels<BFloat16>() {
#if defined(__x86_64__)
  return avx512_bf16::table;
#else
  throw std::logic_error("no kernels for bf16");
#endif
}

}  // namespace mlxdiff
