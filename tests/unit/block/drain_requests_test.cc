// The drain suite, requests: (1) (5) (7) (11) (12) (13) (14) (15).
#include <catch2/catch.hpp>

#include "tests/support/watchdog.h"
#include "tests/unit/block/drain_suite.h"

using namespace rhea;
using namespace rhea::block;
using namespace rhea::block::test;
using namespace std::chrono_literals;
using Catch::Contains;

TEST_CASE("Drain 1: a request under way ends before the section begins", "[drain]") {
  DRAIN_CASES();
  DrainCase f(scope, place);
  f.hold_one();
  f.main().post([&] { f.disk().release(); });  // run by the drain's poll
  bool quiet = false;
  f.drained([&] { quiet = !f.d0.busy() && f.disk().held() == 0; });
  CHECK(quiet);
  f.wait_until([&] { return f.requests.done() == 1; });
  f.check_open();
}

TEST_CASE("Drain 5: a node whose last share its own request drops goes after the section",
          "[drain]") {
  DRAIN_CASES();
  DrainCase f(scope, place);
  NodeRef extra = MUST(f.graph().open(f.gs(), options("driver=test-disk,node-name=d1")));
  Node& node = *extra;
  std::atomic<bool> over = false;
  TestDisk::of(node).hold();
  MUST(spawn(f.where, [&, held = std::move(extra)](Co& co) mutable {
    BlockContext& context = BlockContext::of(co);
    MainWait& main = f.loop().waiter();
    node.begin_request(context);
    {
      GraphReadGuard reading(co);
      std::byte byte{};
      iovec piece;
      MUST(node.co_read(co, 0, vector_of({&byte, 1}, piece)));
    }
    node.end_request(context);
    held = {};
    over = true;
    main.kick();
  }));
  f.wait_until([&] { return TestDisk::of(node).held() == 1; });
  f.main().post([&] { TestDisk::of(node).release(); });
  bool there = false;
  const auto result = f.drain(node, [&](DrainBypass&) -> Result<void> {
    there = f.graph().find(f.gs(), "d1") == &node && !node.busy();
    return ok();
  });
  CHECK(result.has_value());
  CHECK(there);
  f.wait_until([&] { return over.load(); });
  f.loop().service().notify();
  bql.assert_held();
  f.graph().close_unused(f.gs());
  CHECK(f.graph().find(f.gs(), "d1") == nullptr);
  f.check_open();
}

TEST_CASE("Drain 5: a node that its last parent leaves inside the section goes after it",
          "[drain]") {
  DRAIN_CASES();
  DrainCase f(scope, place);
  f.drained([&] {
    REQUIRE(f.backend.remove(f.gs()).has_value());
    CHECK(f.graph().del(f.gs(), "d0").has_value());
  });
  f.graph().close_unused(f.gs());
  CHECK(f.graph().nodes(f.gs()).empty());
  CHECK(f.user.begun == f.user.ended);
}

TEST_CASE("Drain 7: requests that the user's callbacks start run once, after the section",
          "[drain]") {
  DRAIN_CASES();
  DrainCase f(scope, place);
  f.user.on_begin = [&] { f.requests.read(f.where); };
  f.user.on_end = [&] { f.requests.read(f.where); };
  f.drained([&] {
    f.settle();
    CHECK(f.requests.started() == 1);
    CHECK(f.disk().requests() == 0);
  });
  CHECK(f.requests.started() == 2);
  f.wait_until([&] { return f.requests.done() == 2; });
  CHECK(f.disk().requests() == 2);
  f.user.on_begin = f.user.on_end = nullptr;
  f.check_open();
}

TEST_CASE("Drain 11: the owner's own requests go to the node", "[drain]") {
  DRAIN_CASES();
  DrainCase f(scope, place);
  auto bytes = pattern(1000, 3);
  std::vector<std::byte> back(bytes.size());
  f.drained([&] {
    const auto done = f.graph().run_sync(f.gs(), f.where, [&](Co& co) -> Result<void> {
      iovec piece;
      GraphReadGuard reading(co);
      TRY(f.d0.co_write(co, 5, vector_of(bytes, piece)));
      return f.d0.co_read(co, 5, vector_of(back, piece));
    });
    CHECK(done.has_value());
  });
  CHECK(back == bytes);
  f.check_open();
}

TEST_CASE("Drain 12: a request that a request starts as it ends waits for the section's end",
          "[drain]") {
  DRAIN_CASES();
  DrainCase f(scope, place);
  f.disk().hold();
  f.requests.read(f.where, [&](Co&) { f.requests.read(f.where); });
  f.wait_until([&] { return f.disk().held() == 1; });
  f.main().post([&] { f.disk().release(); });
  f.drained([&] {
    f.settle();
    CHECK(f.requests.started() == 2);
    CHECK(f.disk().requests() == 1);
  });
  f.wait_until([&] { return f.requests.done() == 2; });
  CHECK(f.disk().requests() == 2);
  f.check_open();
}

TEST_CASE("Drain 13: a user with queues on every context is quiet on all of them", "[drain]") {
  DRAIN_CASES();
  DrainCase f(scope, place);
  std::vector<AioContext*> queues{&f.where, &f.main()};
  for (int i = 0; i < 3; ++i) queues.push_back(&f.add_thread());
  std::atomic<bool> stop = false;
  std::atomic<int> running = static_cast<int>(queues.size());
  for (AioContext* queue : queues) {
    MUST(spawn(*queue, [&](Co& co) {
      while (!stop) {
        std::byte byte{};
        iovec piece;
        MUST(f.backend.co_read(co, 0, vector_of({&byte, 1}, piece)));
        co.reschedule();
      }
      MainWait& main = f.loop().waiter();
      --running;
      main.kick();
    }));
  }
  for (int round = 0; round < 20; ++round) {
    const int before = f.disk().requests();
    f.wait_until([&] { return f.disk().requests() > before; });
    f.drained([&] {
      const int now = f.disk().requests();
      for (AioContext* queue : queues) {
        MUST(f.graph().run_sync(f.gs(), *queue, [](Co& co) -> Result<void> {
          for (int i = 0; i < 10; ++i) co.reschedule();
          return ok();
        }));
      }
      CHECK(f.disk().requests() == now);
    });
  }
  stop = true;
  f.wait_until([&] { return running == 0; });
  f.check_open();
}

TEST_CASE("Drain 14: a request that comes inside the section runs once after it", "[drain]") {
  DRAIN_CASES();
  DrainCase f(scope, place);
  f.drained([&] {
    f.requests.read(f.where);
    f.settle();
    CHECK(f.disk().requests() == 0);
  });
  f.wait_until([&] { return f.requests.done() == 1; });
  CHECK(f.disk().requests() == 1);
  f.check_open();
}

TEST_CASE("Drain 15: a drain past its deadline names the request and leaves all as it was",
          "[drain]") {
  DRAIN_CASES();
  DrainCase f(scope, place);
  f.hold_one();
  for (int round = 0; round < 2; ++round) {
    bool ran = false;
    const auto result = f.drain(
        f.d0,
        [&](DrainBypass&) -> Result<void> {
          ran = true;
          return ok();
        },
        20ms);
    REQUIRE_FALSE(result.has_value());
    CHECK_FALSE(ran);
    CHECK(result.error().kind() == ErrorKind::kTimeout);
    CHECK_THAT(result.error().message(), Contains("on node 'd0', a read of 1 bytes at 0"));
    CHECK(f.d0.quiesced() == 0);
    CHECK(f.graph().drained_all() == 0);
    CHECK(f.begun() == round + 1);
    CHECK(f.ended() == round + 1);
    CHECK_FALSE(f.backend.drained());
  }
  // Also a change's, whose transaction is undone.
  CHECK_FALSE(f.graph().change(f.gs(), [](GraphWrite&) {}, 20ms).has_value());
  CHECK(f.begun() == f.ended());
  f.disk().release();
  f.wait_until([&] { return f.requests.done() == 1; });
  f.check_open();
}

TEST_CASE("Drain 15: what was asked while a drain ran into its deadline goes on", "[drain]") {
  DRAIN_CASES();
  DrainCase f(scope, place);
  f.hold_one();
  f.user.on_begin = [&] {
    f.user.on_begin = nullptr;
    f.requests.read(f.where);
  };
  CHECK_FALSE(f.drain(f.d0, [](DrainBypass&) -> Result<void> { return ok(); }, 20ms).has_value());
  f.wait_until([&] { return f.disk().held() == 2; });
  f.disk().release();
  f.wait_until([&] { return f.requests.done() == 2; });
  f.check_open();
}

TEST_CASE("Drain 15: a context that answers after the deadline's question is over does no harm",
          "[drain]") {
  const rhea::test::Watchdog watchdog("a late answer", 60s);
  auto thread = MUST(IOThread::create("late"));
  std::atomic<bool> go = false;
  {
    DrainCase f(Scope::kAll, Place::kMain);
    auto context = MUST(BlockContext::create(thread->context()));
    f.hold_one();
    thread->context().post([&] {
      while (!go) std::this_thread::yield();
    });
    const auto late = f.graph().change(f.gs(), [](GraphWrite&) {}, 1ms);
    REQUIRE_FALSE(late.has_value());
    CHECK_THAT(late.error().message(), Contains("on node 'd0'"));
    f.disk().release();
    f.wait_until([&] { return f.requests.done() == 1; });
  }
  go = true;  // context and graph are gone
  thread.reset();
}
