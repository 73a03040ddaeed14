#include "load.h"

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

namespace mlxdiff {
namespace {

// Seconds between looks. The kernel counts in steps of 0.01, and reading takes up to a millisecond.
constexpr double kInterval = 0.15;
// A longer time without a look was one without work.
constexpr double kPause = 1.5;

double seconds(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Seconds that all cores together have been idle or waited for a disk; negative where nothing tells. Sandboxes may have
// a file of zeros.
double idle_time(const char* path) {
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return -1;
  char text[256];
  const ssize_t size = read(file, text, sizeof text - 1);
  close(file);
  text[std::max<ssize_t>(size, 0)] = 0;
  double user, nice, system, idle, waiting;
  if (std::sscanf(text, "cpu %lf %lf %lf %lf %lf", &user, &nice, &system, &idle, &waiting) != 5) return -1;
  if (user + nice + system + idle + waiting == 0) return -1;
  return (idle + waiting) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace

int free_cores(int cores, int allowed, double idle, double own, double elapsed) {
  const double others = std::clamp(cores - (idle + own) / elapsed, 0.0, static_cast<double>(cores));
  return std::max(1, std::min(allowed, cores - static_cast<int>(std::lround(others))));
}

void Load::watch(std::string path) {
  path_ = std::move(path);
  when_ = 0;
}

int Load::free(int allowed) {
  const double now = seconds(CLOCK_MONOTONIC), elapsed = now - when_;
  if (answer_ > 0 && elapsed < kInterval) return std::min(answer_, allowed);
  const double idle = idle_time(path_.c_str()), own = seconds(CLOCK_PROCESS_CPUTIME_ID);
  const bool known = answer_ > 0 && elapsed < kPause && idle >= 0 && idle_ >= 0;
  const auto cores = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  answer_ = known ? free_cores(cores, allowed, idle - idle_, own - own_, elapsed) : allowed;
  when_ = now, idle_ = idle, own_ = own;
  return answer_;
}

}  // namespace mlxdiff
