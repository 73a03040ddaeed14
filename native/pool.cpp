#include "pool.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "load.h"

namespace mlxdiff {
namespace {

// How often an idle thread looks before it sleeps: some 20 microseconds, less than waking up takes.
constexpr int kLooks = 1000;

void rest() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <class Condition>
bool look(const Condition& condition) {
  for (int i = 0; i < kLooks; ++i) {
    if (condition()) return true;
    rest();
  }
  return false;
}

struct Loop {
  int64_t n;
  void (*call)(const void*, int64_t, int);
  const void* body;
  std::atomic<int64_t> next{0};

  void work(int worker) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) call(body, i, worker);
  }
};

}  // namespace

struct Pool::State {
  std::mutex turn;  // held by the caller whose loop runs
  std::mutex mutex;  // guards what follows
  std::condition_variable wake, parked, done;
  int active = 1;  // workers from this number on sleep on, whatever loop begins
  bool follows_load = false;
  Load load;
  Loop* loop = nullptr;
  std::atomic<uint64_t> loops{0};  // how many have begun
  std::atomic<int> inside{0};  // workers that are in the loop
  bool stop = false;
  std::vector<std::thread> workers;

  void serve(int worker, uint64_t seen) {
    while (true) {
      look([&] { return loops.load(std::memory_order_acquire) != seen; });
      Loop* mine;
      {
        std::unique_lock lock(mutex);
        while (!stop && (worker >= active || loops.load() == seen)) (worker >= active ? parked : wake).wait(lock);
        if (stop) return;
        seen = loops.load();
        mine = loop;
        if (mine != nullptr) inside.fetch_add(1);
      }
      if (mine == nullptr) continue;
      mine->work(worker);
      // Under the lock, so that the caller cannot return and the pool vanish in between.
      std::lock_guard lock(mutex);
      if (inside.fetch_sub(1) == 1) done.notify_one();
    }
  }

  void join() {
    {
      std::lock_guard lock(mutex);
      stop = true;
    }
    wake.notify_all();
    parked.notify_all();
    for (auto& worker : workers) worker.join();
    workers.clear();
    stop = false;
  }
};

Pool::Pool() : state_(new State) {}
Pool::~Pool() { state_->join(); }

int Pool::threads() const { return static_cast<int>(state_->workers.size()) + 1; }

int Pool::active() const {
  std::lock_guard lock(state_->mutex);
  return state_->active;
}

void Pool::watch(const std::string& path) {
  std::lock_guard turn(state_->turn);
  state_->load.watch(path);
}

void Pool::resize(int threads, bool follow_load) {
  std::lock_guard turn(state_->turn);
  state_->join();
  state_->follows_load = follow_load;
  try {
    for (int i = 1; i < threads; ++i) {
      state_->workers.emplace_back([state = state_.get(), i, seen = state_->loops.load()] { state->serve(i, seen); });
    }
  } catch (const std::system_error&) {
    // A limit on threads or memory: those that there are do the work.
  }
  std::lock_guard lock(state_->mutex);
  state_->active = this->threads();
  state_->parked.notify_all();  // who came here before its number was active
}

void Pool::run(int64_t n, Call call, const void* body) {
  if (n <= 0) return;
  std::lock_guard turn(state_->turn);
  Loop loop{n, call, body};
  const int threads = this->threads(), active = state_->follows_load ? state_->load.free(threads) : threads;
  if (active != state_->active) {  // nobody else changes it
    std::lock_guard lock(state_->mutex);
    state_->active = active;
    state_->parked.notify_all();
    state_->wake.notify_all();  // who is to park
  }
  if (n == 1 || active == 1) {
    loop.work(0);
    return;
  }
  {
    std::lock_guard lock(state_->mutex);
    state_->loop = &loop;
    state_->loops.fetch_add(1, std::memory_order_release);
  }
  state_->wake.notify_all();
  loop.work(0);
  {
    std::lock_guard lock(state_->mutex);
    state_->loop = nullptr;
  }
  if (look([&] { return state_->inside.load(std::memory_order_acquire) == 0; })) return;
  std::unique_lock lock(state_->mutex);
  state_->done.wait(lock, [&] { return state_->inside.load() == 0; });
}

Pool& pool() {
  // Never destroyed: threads may not be joined while the process ends.
  static Pool* const all = new Pool;
  return *all;
}

}  // namespace mlxdiff
