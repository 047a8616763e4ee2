#include "util/aio_context.h"

#include <catch2/catch.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/busy_ring.h"
#include "tests/support/death.h"
#include "tests/support/sync_action.h"
#include "tests/support/watchdog.h"
#include "util/coroutine.h"
#include "util/mutex.h"
#include "util/rcu.h"
#include "util/thread.h"
#include "util/timer.h"

using namespace rhea;
using namespace std::chrono_literals;

namespace {

constexpr const char* kAnnounced = "AioContext::poll: announced, not yet looked";
constexpr const char* kLooked = "AioContext::poll: looked, not yet asleep";
constexpr const char* kMarked = "AioContext::schedule: marked, not yet in the list";

/// For tests in which a ring can not be busy: of death, of the home thread, of work that stays.
std::unique_ptr<AioContext> make_quiet_context() { return MUST(AioContext::create("test")); }

/// Each test runs twice: with an idle ring, or none, and with a busy one.
test::LoopUnderTest make_context() {
  return test::LoopUnderTest(GENERATE(test::SleepsIn::kEpoll, test::SleepsIn::kRing));
}

/// Runs `f` on another thread, to its end.
template <class F>
void elsewhere(F f) {
  MUST(Thread::start("elsewhere", std::move(f)));
}

struct Recorder final : Resumable {
  Recorder(std::string& l, char n) : log(l), name(n) {}
  void resume() override { log += name; }
  std::string& log;
  const char name;
};

}  // namespace

TEST_CASE("Bh: many schedules before it runs give one run", "[aio]") {
  auto context = make_context();
  int runs = 0;
  Bh bh(*context, [&] { ++runs; });
  bh.schedule();
  bh.schedule();
  elsewhere([&] { bh.schedule(); });
  CHECK(context->poll(PollMode::kNonBlocking));
  CHECK(runs == 1);
  CHECK_FALSE(context->poll(PollMode::kNonBlocking));
  bh.schedule();
  CHECK(context->poll(PollMode::kNonBlocking));
  CHECK(runs == 2);
}

TEST_CASE("Bh: bottom halves and posts run in the order in which they came", "[aio]") {
  auto context = make_context();
  std::string log;
  Bh a(*context, [&] { log += 'a'; });
  Bh c(*context, [&] { log += 'c'; });
  a.schedule();
  context->post([&] { log += 'b'; });
  c.schedule();
  a.schedule();
  context->post([&] { log += 'd'; });
  context->poll(PollMode::kBlocking);
  CHECK(log == "abcd");
}

TEST_CASE("Bh: one that schedules itself runs once in each turn", "[aio]") {
  auto context = make_context();
  int runs = 0;
  std::optional<Bh> bh;
  bh.emplace(*context, [&] {
    ++runs;
    bh->schedule();
  });
  bh->schedule();
  for (int turn = 1; turn <= 3; ++turn) {
    context->poll(PollMode::kBlocking);
    CHECK(runs == turn);
  }
}

TEST_CASE("Bh: a cancelled one does not run, and can be scheduled again at once", "[aio]") {
  auto context = make_context();
  int runs = 0;
  Bh bh(*context, [&] { ++runs; });
  bh.schedule();
  bh.cancel();
  CHECK_FALSE(context->poll(PollMode::kNonBlocking));
  CHECK(runs == 0);
  bh.schedule();
  bh.cancel();
  bh.schedule();
  CHECK(context->poll(PollMode::kNonBlocking));
  CHECK(runs == 1);
}

TEST_CASE("Bh: one that is destroyed while scheduled does not run", "[aio]") {
  auto context = make_context();
  auto witness = std::make_shared<int>(0);
  auto bh = std::make_unique<Bh>(*context, [witness] { ++*witness; });
  bh->schedule();
  bh.reset();
  CHECK_FALSE(context->poll(PollMode::kNonBlocking));
  CHECK(*witness == 0);
  CHECK(witness.use_count() == 1);
}

TEST_CASE("Bh: its own callback and a sibling's may destroy it", "[aio]") {
  auto context = make_context();
  std::string log;
  std::unique_ptr<Bh> own;
  std::unique_ptr<Bh> sibling;
  own = std::make_unique<Bh>(*context, [&log, &own, &sibling, tail = std::string(64, 'x')] {
    log += 'o';
    sibling.reset();
    own->schedule();
    own.reset();
    log += tail[63];  // what it captured lives until it returns
  });
  sibling = std::make_unique<Bh>(*context, [&] { log += 's'; });
  own->schedule();
  sibling->schedule();
  CHECK(context->poll(PollMode::kNonBlocking));
  CHECK_FALSE(context->poll(PollMode::kNonBlocking));
  CHECK(log == "ox");
}

TEST_CASE("Bh: one that is destroyed while another thread lists it is freed later", "[aio]") {
  auto context = make_context();
  auto witness = std::make_shared<int>(0);
  auto bh = std::make_unique<Bh>(*context, [witness] { ++*witness; });
  {
    test::SyncAction at(kMarked, [&] { bh.reset(); });
    bh->schedule();
  }
  CHECK(witness.use_count() == 2);
  CHECK_FALSE(context->poll(PollMode::kNonBlocking));
  CHECK(*witness == 0);
  CHECK(witness.use_count() == 1);
}

TEST_CASE("AioContext: what a post posts runs in the next turn", "[aio]") {
  auto context = make_context();
  std::string log;
  context->post([&] {
    log += '1';
    context->post([&] { log += '2'; });
  });
  context->poll(PollMode::kNonBlocking);
  CHECK(log == "1");
  context->poll(PollMode::kNonBlocking);
  CHECK(log == "12");
}

TEST_CASE("AioContext: posts that never ran are destroyed with it, not called", "[aio]") {
  struct PostsAgain {
    AioContext* context;
    std::shared_ptr<int> witness;
    ~PostsAgain() {
      context->post([w = witness] { ++*w; });
    }
  };
  auto context = make_quiet_context();
  auto witness = std::make_shared<int>(0);
  auto last = std::make_unique<PostsAgain>(context.get(), witness);
  context->post([witness, l = std::move(last)] { ++*witness; });
  Bh bh(*context, [&] { ++*witness; });
  bh.schedule();
  context.reset();
  CHECK(*witness == 0);
  CHECK(witness.use_count() == 1);
}

TEST_CASE("AioContext: resumables run in order, each once, in the same turn", "[aio]") {
  auto context = make_context();
  std::string log;
  Recorder a(log, 'a');
  Recorder b(log, 'b');
  context->resume_later(a);
  elsewhere([&] { context->resume_later(b); });
  context->post([&] { log += 'p'; });
  CHECK(context->poll(PollMode::kBlocking));
  CHECK(log == "pab");
  CHECK_FALSE(context->poll(PollMode::kNonBlocking));
  CHECK(log == "pab");
}

TEST_CASE("AioContext: work that comes while a poll falls asleep wakes it", "[aio][notify]") {
  test::Watchdog watchdog("work while falling asleep", 60s);
  const char* point = GENERATE(kAnnounced, kLooked);
  const int what = GENERATE(0, 1, 2, 3);
  CAPTURE(point, what);
  auto context = make_context();
  std::string log;
  Bh bh(*context, [&] { log += 'b'; });
  Recorder resumable(log, 'r');
  Timer timer(context->timers(), [&] { log += 't'; });
  {
    test::SyncAction at(point, [&] {
      elsewhere([&] {
        if (what == 0) bh.schedule();
        if (what == 1) context->post([&] { log += 'p'; });
        if (what == 2) context->resume_later(resumable);
        if (what == 3) timer.arm_at(0ns);
      });
    });
    CHECK(context->poll(PollMode::kBlocking));
  }
  CHECK(log == std::string(1, "bprt"[what]));
  CHECK(context->kicks() == 1);
}

TEST_CASE("T003c: AioContext: with nobody asleep a schedule writes no eventfd", "[aio][notify]") {
  test::Watchdog watchdog("T003c", 60s);
  auto context = make_context();
  std::optional<Bh> bh;
  bh.emplace(*context, [&] {});
  bh->schedule();
  elsewhere([&] { context->post([] {}); });
  context->poll(PollMode::kBlocking);
  // A turn that does not sleep, and handlers of one that does, need no kick either.
  context->post([&] { bh->schedule(); });
  context->poll(PollMode::kNonBlocking);
  context->post([&] { elsewhere([&] { bh->schedule(); }); });
  context->poll(PollMode::kBlocking);
  CHECK(context->kicks() == 0);
}

TEST_CASE("T003c: AioContext: a nested blocking poll is woken", "[aio][notify]") {
  test::Watchdog watchdog("T003c nested", 60s);
  auto context = make_context();
  std::string log;
  Bh inner(*context, [&] { log += 'i'; });
  Bh outer(*context, [&] {
    log += '(';
    test::SyncAction at(kLooked, [&] { elsewhere([&] { inner.schedule(); }); });
    while (log.back() != 'i') context->poll(PollMode::kBlocking);
    log += ')';
  });
  outer.schedule();
  context->poll(PollMode::kBlocking);
  CHECK(log == "(i)");
  CHECK(context->kicks() == 1);
}

TEST_CASE("AioContext: notify before a blocking poll makes just that one return", "[aio]") {
  test::Watchdog watchdog("notify first", 60s);
  auto context = make_context();
  context->notify();
  context->notify();
  CHECK_FALSE(context->poll(PollMode::kBlocking));
  // The next one sleeps: nothing but the timer ends it.
  bool fired = false;
  Timer timer(context->timers(), [&] { fired = true; });
  timer.arm_after(2ms);
  CHECK(context->poll(PollMode::kBlocking));
  CHECK(fired);
}

TEST_CASE("AioContext: a nested poll runs what the outer one has not come to yet", "[aio]") {
  test::Watchdog watchdog("nested next in line", 60s);
  auto context = make_context();
  std::string log;
  context->post([&] {
    log += '(';
    // Blocking: what it waits for is neither in the list nor announced by any descriptor.
    while (log.find('b') == std::string::npos) context->poll(PollMode::kBlocking);
    log += ')';
  });
  context->post([&] { log += 'a'; });
  context->post([&] { log += 'b'; });
  context->poll(PollMode::kNonBlocking);
  CHECK(log == "(ab)");
}

TEST_CASE("AioContext: a nested poll in a resumable runs the next one", "[aio]") {
  test::Watchdog watchdog("nested resumable", 60s);
  struct Nested final : Resumable {
    void resume() override {
      while (log.empty()) context.poll(PollMode::kBlocking);
      log += 'n';
    }
    Nested(AioContext& c, std::string& l) : context(c), log(l) {}
    AioContext& context;
    std::string& log;
  };
  auto context = make_context();
  std::string log;
  Nested nested(*context, log);
  Recorder next(log, 'r');
  context->resume_later(nested);
  context->resume_later(next);
  context->poll(PollMode::kNonBlocking);
  CHECK(log == "rn");
}

TEST_CASE("AioContext: a coroutine finds its context, and what a folder above keeps for it",
          "[aio]") {
  struct Record final : AioExtension {};
  auto context = make_context();
  CHECK(context->extension() == nullptr);
  Record record;
  context->set_extension(&record);
  AioContext* found = nullptr;
  MUST(start_here(*context, [&](Co& co) { found = co.executor().aio(); }));
  CHECK(found == context.get());
  CHECK(found->extension() == &record);
}

TEST_CASE("AioContext: only its home thread is its home", "[aio]") {
  auto context = make_quiet_context();
  CHECK(context->is_home());
  bool elsewhere_is_home = true;
  bool after_rebinding = false;
  elsewhere([&] {
    elsewhere_is_home = context->is_home();
    context->rebind_home();
    after_rebinding = context->is_home();
    context->poll(PollMode::kNonBlocking);
  });
  CHECK_FALSE(elsewhere_is_home);
  CHECK(after_rebinding);
  CHECK_FALSE(context->is_home());
}

TEST_CASE("AioContext: a poll in the wrong place aborts", "[aio][death]") {
  auto context = make_quiet_context();
  SECTION("on a foreign thread") {
    std::unique_ptr<AioContext> foreign;
    elsewhere([&] { foreign = make_quiet_context(); });
    CHECK(test::dies([&] { foreign->poll(PollMode::kNonBlocking); }));
    CHECK(test::dies([&] { static_cast<void>(foreign->watch(0, FdEvents::kRead, {})); }));
  }
  SECTION("inside an RCU read section") {
    RcuThread registration;
    CHECK(test::dies([&] {
      RcuReadGuard guard;
      context->poll(PollMode::kNonBlocking);
    }));
  }
  SECTION("with a lock held") {
    Mutex mutex;
    CHECK(test::dies([&] {
      MutexLock lock(mutex);
      context->poll(PollMode::kNonBlocking);
    }));
  }
  SECTION("inside a coroutine") {
    CHECK(test::dies(
        [&] { MUST(start_here(*context, [&](Co&) { context->poll(PollMode::kNonBlocking); })); }));
  }
  CHECK_FALSE(test::dies([&] { context->poll(PollMode::kNonBlocking); }));
}

TEST_CASE("AioContext: one that goes before a coroutine was resumed aborts", "[aio][death]") {
  std::string log;
  Recorder left(log, 'l');
  CHECK(test::dies([&] {
    auto context = make_quiet_context();
    context->resume_later(left);
  }));
}
