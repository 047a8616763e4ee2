#include "util/semaphore.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <vector>

#include "tests/support/size.h"
#include "tests/support/watchdog.h"
#include "util/thread.h"

using namespace rhea;
using namespace std::chrono_literals;

TEST_CASE("Semaphore: tokens are taken as often as they were posted", "[semaphore]") {
  Semaphore semaphore(1);
  semaphore.post();
  CHECK(semaphore.tokens() == 2);
  CHECK(semaphore.wait());
  CHECK(semaphore.wait());
  CHECK(semaphore.tokens() == 0);
}

TEST_CASE("Semaphore: after the end tokens are still taken, then waits fail", "[semaphore]") {
  Semaphore semaphore(1);
  semaphore.close();
  semaphore.post();
  CHECK(semaphore.wait());
  CHECK(semaphore.wait());
  CHECK_FALSE(semaphore.wait());
}

TEST_CASE("Semaphore: the end wakes everybody who sleeps", "[semaphore]") {
  const test::Watchdog watchdog("closed semaphore", 30s);
  Semaphore semaphore;
  std::atomic<unsigned> woken = 0;
  std::vector<Thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.push_back(MUST(Thread::start("test", [&] {
      if (!semaphore.wait()) ++woken;
    })));
  }
  semaphore.close();
  threads.clear();
  CHECK(woken == 3);
}

TEST_CASE("Semaphore: what was written before a post is seen after its wait", "[semaphore]") {
  const test::Watchdog watchdog("semaphore hand-over", 120s);
  const unsigned rounds = test::sized(20'000U, 1'000'000U);
  Semaphore there;
  Semaphore back;
  unsigned value = 0;  // plain: TSan reports a hand-over that does not order
  Thread other = MUST(Thread::start("test", [&] {
    while (there.wait()) {
      ++value;
      back.post();
    }
  }));
  for (unsigned i = 0; i < rounds; ++i) {
    ++value;
    there.post();
    if (!back.wait()) break;
    test::Watchdog::feed();
  }
  there.close();
  other.join();
  CHECK(value == 2 * rounds);
}
