// A pool of threads that share loops. Callers take part in their own loop; idle workers sleep.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace mlxdiff {

class Pool {
 public:
  Pool();
  ~Pool();

  // How many threads take part in a loop, the caller included: as many as there can be up to that number. With
  // `follow_load` never more than there are cores that others leave free (load.h), from loop to loop.
  void resize(int threads, bool follow_load);
  int threads() const;
  // How many took part in the last loop, at most.
  int active() const;
  // Where the load is read from.
  void watch(const std::string& path);

  // Calls body(i, worker) for each i in [0, n), on several threads at once; returns when all are done.
  // worker < threads() tells the threads of one loop apart, for scratch memory. Loops of several callers take turns; a
  // body must not start a loop. Which thread makes which call, and how many there are, must not change a result.
  template <class Body>
  void parallel_for(int64_t n, const Body& body) {
    run(n, [](const void* b, int64_t i, int worker) { (*static_cast<const Body*>(b))(i, worker); }, &body);
  }

 private:
  using Call = void (*)(const void* body, int64_t i, int worker);
  void run(int64_t n, Call call, const void* body);

  struct State;
  std::unique_ptr<State> state_;
};

// The one that all operations use.
Pool& pool();

}  // namespace mlxdiff
