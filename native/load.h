// How many cores other processes leave to this one, looked at again and again while it computes.
#pragma once

#include <string>

namespace mlxdiff {

// Cores that are free of others, of `cores` in all and `allowed` to this process; one at least. In `elapsed` seconds all
// cores together were idle for `idle` seconds, and computed for this process for `own`.
int free_cores(int cores, int allowed, double idle, double own, double elapsed);

class Load {
 public:
  // Reads from that file from now on what Linux says in /proc/stat.
  void watch(std::string path);

  // free_cores for the time since the last look. Between looks, and where nothing tells, the last answer; at first, and
  // after a time without work, which says nothing about now, `allowed`.
  int free(int allowed);

 private:
  std::string path_ = "/proc/stat";
  double when_ = 0, idle_ = 0, own_ = 0;
  int answer_ = 0;
};

}  // namespace mlxdiff
