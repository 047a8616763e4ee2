// What a litmus test is made of: two pinned cores that start each round together, with full store
// buffers and a different distance.
#pragma once

#include <pthread.h>
#include <sched.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

namespace rhea::test {

inline void full_fence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
/// Keeps the compiler, and only the compiler, from reordering.
inline void compiler_fence() { std::atomic_signal_fence(std::memory_order_seq_cst); }

/// Two CPUs this process may use; empty if there are fewer.
inline std::vector<int> two_cpus() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  ::sched_getaffinity(0, sizeof allowed, &allowed);
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE && cpus.size() < 2; ++cpu) {
    if (CPU_ISSET(static_cast<size_t>(cpu), &allowed)) cpus.push_back(cpu);
  }
  if (cpus.size() < 2) cpus.clear();
  return cpus;
}

inline void pin_to(int cpu) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<size_t>(cpu), &one);
  ::pthread_setaffinity_np(::pthread_self(), sizeof one, &one);
}

/// Lets two threads start a round together; spins, for a sleep would end every race.
class SpinBarrier {
 public:
  void arrive() {
    const uint64_t mine = round_.load();
    if (arrived_.fetch_add(1) == 1) {
      arrived_ = 0;
      round_.fetch_add(1);
      return;
    }
    for (uint32_t spins = 0; round_.load() == mine; ++spins) {
      if (spins > 10'000) ::sched_yield();  // the other core is not ours at the moment
    }
  }

 private:
  alignas(64) std::atomic<uint32_t> arrived_ = 0;
  alignas(64) std::atomic<uint64_t> round_ = 0;
};

/// Memory that both cores write before each crossing: its lines are always in the other's cache, so
/// the stores queue up in the store buffer and whatever is stored next becomes visible late.
class Ballast {
 public:
  void write(uint32_t value) {
    for (auto& line : lines_) line.word.store(value, std::memory_order_relaxed);
  }

 private:
  struct alignas(64) Line {
    std::atomic<uint32_t> word = 0;
  };
  std::array<Line, 8> lines_;
};

/// Moves the two cores' starts against each other, differently in each round.
class Jitter {
 public:
  explicit Jitter(uint32_t seed) : random_(seed) {}
  void spin() {
    random_ = random_ * 1664525 + 1013904223;
    for (uint32_t i = 0; i < (random_ >> 26); ++i) compiler_fence();
  }

 private:
  uint32_t random_;
};

}  // namespace rhea::test
