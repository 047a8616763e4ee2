#include "util/rcu.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <memory>
#include <vector>

#include "tests/support/death.h"
#include "tests/support/size.h"
#include "util/bql.h"
#include "util/thread.h"

using namespace rhea;

namespace {

// A value whose two halves agree unless it was read after it was freed or before it was built.
struct Pair {
  explicit Pair(uint64_t v) : first(v), second(~v) {}
  ~Pair() { first = second = 0xdddddddddddddddd; }
  bool whole() const { return first == ~second; }
  uint64_t first;
  uint64_t second;
};

}  // namespace

TEST_CASE("Rcu: a callback runs after the sections that were open have closed", "[rcu]") {
  RcuThread self;
  std::atomic<bool> freed = false;
  {
    RcuReadGuard guard;
    rcu_call([&] { freed = true; });
    CHECK_FALSE(freed);
  }
  rcu_drain_callbacks();
  CHECK(freed);
}

TEST_CASE("Rcu: a callback may retire what its object held", "[rcu]") {
  RcuThread self;
  std::atomic<bool> freed = false;
  rcu_call([&] { rcu_call([&] { freed = true; }); });
  rcu_drain_callbacks();
  rcu_drain_callbacks();
  CHECK(freed);
}

TEST_CASE("Rcu: readers never see a retired value", "[rcu][stress]") {
  RcuThread self;
  constexpr int kReaders = 4;
  const int updates = test::sized(20'000, 1'000'000);
  RcuPtr<Pair> shared(new Pair(0));
  std::atomic<bool> stop = false;
  std::atomic<uint64_t> torn = 0;
  std::vector<Thread> readers;
  for (int i = 0; i < kReaders; ++i) {
    readers.push_back(MUST(Thread::start("reader", [&] {
      while (!stop.load(std::memory_order_relaxed)) {
        RcuReadGuard guard;
        if (!shared.load()->whole()) torn.fetch_add(1);
      }
    })));
  }
  for (int i = 1; i <= updates; ++i) {
    rcu_retire(std::unique_ptr<Pair>(shared.exchange(new Pair(static_cast<uint64_t>(i)))));
  }
  stop = true;
  for (auto& reader : readers) reader.join();
  rcu_drain_callbacks();
  delete shared.exchange(nullptr);
  CHECK(torn == 0);
}

TEST_CASE("T004d: waiting for readers inside a section aborts", "[rcu][death]") {
  CHECK(test::dies([] {
    RcuThread self;
    RcuReadGuard guard;
    rcu_synchronize();
  }));
}

TEST_CASE("T004d: waiting for readers with the BQL held aborts", "[rcu][death]") {
  CHECK(test::dies([] {
    RcuThread self;
    BqlGuard guard;
    rcu_synchronize();
  }));
  CHECK(test::dies([] {
    RcuThread self;
    BqlGuard guard;
    rcu_drain_callbacks();
  }));
}

TEST_CASE("Rcu: a section on a thread that is not registered aborts", "[rcu][death]") {
  CHECK(test::dies([] { RcuReadGuard guard; }));
}
