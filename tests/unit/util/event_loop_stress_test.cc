// T000e and T003d: many threads against one loop, nothing lost and nothing mixed up.
#include <fcntl.h>
#include <sys/uio.h>

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/busy_ring.h"
#include "tests/support/size.h"
#include "tests/support/temp_dir.h"
#include "tests/support/watchdog.h"
#include "tests/support/without_io_ring.h"
#include "util/aio_context.h"
#include "util/bql.h"
#include "util/coroutine.h"
#include "util/fd.h"
#include "util/io_ring.h"
#include "util/io_thread.h"
#include "util/main_loop.h"
#include "util/mutex.h"
#include "util/one_shot_event.h"
#include "util/thread.h"

using namespace rhea;
using namespace std::chrono_literals;

namespace {

constexpr uint64_t kSchedulers = 8;

/// T000e: a job that a foreign thread keeps on its stack while main works on it.
struct Job {
  uint64_t input;
  uint64_t output = 0;
  OneShotEvent done{};
};

/// One kind of job: a queue, and the bottom half on main that empties it.
class JobKind {
 public:
  JobKind(AioContext& context, uint64_t salt) : salt_(salt), bh_(context, [this] { run_all(); }) {}

  /// Has main do it; false if the answer is another job's.
  bool ask(uint64_t input) {
    Job job{.input = input};
    jobs_.with([&job](std::vector<Job*>& jobs) { jobs.push_back(&job); });
    bh_.schedule();
    job.done.wait();
    return job.output == answer(input);
  }
  uint64_t answered() const { return answered_; }

 private:
  uint64_t answer(uint64_t input) const { return (input ^ salt_) * 0x9e3779b97f4a7c15U; }
  void run_all() {
    bql.assert_held();
    const auto jobs = jobs_.with([](std::vector<Job*>& j) { return std::exchange(j, {}); });
    for (Job* job : jobs) {
      ++answered_;
      job->output = answer(job->input);
      job->done.set();  // the job may be gone now
    }
  }

  const uint64_t salt_;
  Guarded<std::vector<Job*>> jobs_;
  uint64_t answered_ = 0;  // main only
  Bh bh_;
};

}  // namespace

TEST_CASE("T003d: AioContext: what eight threads schedule is consumed, nothing lost",
          "[aio][stress]") {
  test::Watchdog watchdog("T003d at context level", 500s);
  const uint64_t each = test::sized<uint64_t>(5'000, 1'000'000);
  const bool busy = GENERATE(false, true);
  const test::LoopUnderTest context(GENERATE(test::SleepsIn::kEpoll, test::SleepsIn::kRing));
  if (busy) context->set_busy_poll({.longest = 32us});
  std::atomic<uint64_t> consumed = 0;
  std::atomic<uint64_t> asked = 0;
  std::atomic<uint64_t> posts_run = 0;
  std::vector<std::unique_ptr<Bh>> bhs;
  for (int i = 0; i < 2; ++i) {
    bhs.push_back(std::make_unique<Bh>(*context, [&] { consumed += asked.exchange(0); }));
  }
  std::vector<Thread> threads;
  for (uint64_t t = 0; t < kSchedulers; ++t) {
    threads.push_back(MUST(Thread::start("scheduler", [&, t] {
      for (uint64_t n = 0; n < each; ++n) {
        asked.fetch_add(1);
        bhs[(t + n) % bhs.size()]->schedule();
        if (n % 64 == 0) context->post([&] { ++posts_run; });
        // Now and then all wait, so that the loop sleeps and no later schedule hides a loss.
        while (n % 16 == 0 && asked != 0) std::this_thread::yield();
        test::Watchdog::feed();
      }
    })));
  }
  const uint64_t posts = kSchedulers * ((each + 63) / 64);
  // A lost wake-up leaves this asleep, for the watchdog to find.
  while (consumed < kSchedulers * each || posts_run < posts) context->poll(PollMode::kBlocking);
  threads.clear();
  CHECK(consumed == kSchedulers * each);
  CHECK(asked == 0);
  CHECK(posts_run == posts);
}

TEST_CASE("T000e: jobs of foreign threads on main end in their own completion each",
          "[main_loop][stress]") {
  test::Watchdog watchdog("T000e", 300s);
  const uint64_t each = test::sized<uint64_t>(1'000, 200'000);
  const bool with_ring = GENERATE(false, true);
  auto loop = MUST(MainLoop::create());
  JobKind read(loop->service(), 1);
  JobKind draw(loop->block(), 2);
  std::atomic<uint64_t> crossed = 0;
  std::atomic<uint64_t> ended = 0;
  BqlGuard guard;
  std::optional<test::BusyRing> busy_ring;
  if (with_ring && loop->block().io_ring() != nullptr) busy_ring.emplace(loop->block());
  std::vector<Thread> threads;
  for (uint64_t t = 0; t < kSchedulers; ++t) {
    threads.push_back(MUST(Thread::start("foreign", [&, t] {
      for (uint64_t n = 0; n < each; ++n) {
        JobKind& kind = (t + n) % 3 == 0 ? read : draw;
        if (!kind.ask(t << 32 | n)) ++crossed;
        test::Watchdog::feed();
      }
      ++ended;
      loop->service().notify();
    })));
  }
  while (ended < kSchedulers) loop->turn();
  CHECK(crossed == 0);
  CHECK(read.answered() + draw.answered() == kSchedulers * each);
}

namespace {

/// One block of a file, written and read back by a coroutine, each time with other contents.
struct BlockChecker {
  void run(Co& co, IoRing& ring, RingFile file, int rounds) {
    for (int round = 0; round < rounds; ++round) {
      std::array<uint64_t, 512> out{};
      std::array<uint64_t, 512> in{};
      for (uint64_t& word : out) word = number << 32 | static_cast<uint64_t>(round);
      const iovec from{out.data(), sizeof out};
      const iovec to{in.data(), sizeof in};
      const uint64_t offset = number * sizeof out;
      const bool wrote = ring.co_writev(co, file, {&from, 1}, offset, 0) == sizeof out;
      const bool read = ring.co_readv(co, file, {&to, 1}, offset) == sizeof in;
      if (!wrote || !read || in != out) ++bad;
      test::Watchdog::feed();
    }
  }
  const uint64_t number;
  int bad = 0;
};

}  // namespace

TEST_CASE("IoRing: data stay whole while other threads schedule and the loop sleeps",
          "[io_ring][stress]") {
  SKIP_WITHOUT_IO_RING();
  test::Watchdog watchdog("file I/O under a storm of bottom halves", 300s);
  constexpr uint64_t kBlocks = 32;
  const int rounds = test::sized(200, 20'000);
  const test::TempDir dir;
  const Fd fd(::open(dir.file("disk").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  auto thread = MUST(IOThread::create("io"));
  AioContext& context = thread->context();
  std::vector<BlockChecker> blocks;
  for (uint64_t i = 0; i < kBlocks; ++i) blocks.push_back({.number = i});
  std::atomic<uint64_t> ended = 0;
  context.post([&] {
    IoRing& ring = *context.io_ring();
    const RingFile file = MUST(ring.register_file(fd.get()));
    for (BlockChecker& block : blocks) {
      MUST(start_here(context, [&ring, &block, &ended, &context, file, rounds](Co& co) {
        block.run(co, ring, file, rounds);
        if (++ended == kBlocks) context.io_ring()->unregister_file(file);
      }));
    }
  });
  std::atomic<uint64_t> asked = 0;
  Bh bh(context, [&] { asked = 0; });
  while (ended < kBlocks) {
    ++asked;
    bh.schedule();
    while (asked != 0) std::this_thread::yield();  // each may find the loop asleep, or about to be
  }
  thread.reset();
  int bad = 0;
  for (const BlockChecker& block : blocks) bad += block.bad;
  CHECK(bad == 0);
}
