// What a coroutine costs: create + run + end, and a yield (two switches). Prints nanoseconds.
//
// The peer's figures for the same work: QEMU 7.2 `test-coroutine -m perf`.
#include <chrono>
#include <cstdio>

#include "util/coroutine.h"

using namespace rhea;

namespace {

class Immediate final : public Executor {
 public:
  void resume_later(Resumable& resumable) override { pending = &resumable; }
  Resumable* pending = nullptr;
};

template <class F>
double nanoseconds_each(long rounds, F&& f) {
  const auto start = std::chrono::steady_clock::now();
  for (long i = 0; i < rounds; ++i) f();
  const std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - start;
  return spent.count() / static_cast<double>(rounds);
}

}  // namespace

int main() {
  Immediate executor;
  long ran = 0;
  const double lifecycle = nanoseconds_each(
      20'000'000, [&] { static_cast<void>(start_here(executor, [&ran](Co&) { ++ran; })); });
  Coroutine* coroutine = nullptr;
  bool stop = false;
  static_cast<void>(start_here(executor, [&](Co& co) {
    coroutine = &co.coroutine();
    while (!stop) co.yield();
  }));
  const double yield = nanoseconds_each(50'000'000, [&] { coroutine->resume(); });
  stop = true;
  coroutine->resume();
  std::printf("lifecycle %.1f ns\nyield %.1f ns\n", lifecycle, yield);
  return ran == 20'000'000 ? 0 : 1;
}
