// The drain suite, the graph: (2) (3) (4) (6) (9) (10) (16). The cases of (8), a job at begin, come
// with the jobs.
#include <catch2/catch.hpp>

#include "tests/support/death.h"
#include "tests/support/watchdog.h"
#include "tests/unit/block/drain_suite.h"

using namespace rhea;
using namespace rhea::block;
using namespace rhea::block::test;
using namespace std::chrono_literals;

namespace {

constexpr std::string_view kChain =
    "driver=test-filter,node-name=top,file.driver=test-filter,file.node-name=middle,"
    "file.file.driver=test-disk,file.file.node-name=base";

/// How often a drain of `node` in the case's scope tells the node: once by itself if all are
/// drained, and once for each edge below it.
struct Expected {
  std::string_view node;
  unsigned by_node, by_all;
};

void check_counts(DrainCase& f, Scope scope, std::initializer_list<Expected> expected) {
  for (const auto& [name, by_node, by_all] : expected) {
    INFO(name);
    Node* node = f.graph().find(f.gs(), name);
    REQUIRE(node != nullptr);
    CHECK(node->quiesced() == (scope == Scope::kAll ? by_all : by_node));
    const DrainCalls& calls =
        name == "base" ? TestDisk::of(*node).calls : TestFilter::of(*node).calls;
    CHECK(calls.begun - calls.ended == 1);
  }
}

}  // namespace

TEST_CASE("Drain 2: sections of one node and of several nest, and tell the user once", "[drain]") {
  DRAIN_CASES();
  DrainCase f(scope, place);
  Node& d1 = f.add("driver=test-disk,node-name=d1");
  const unsigned one = 1;
  f.drained([&] {
    f.drained([&] { CHECK(f.d0.quiesced() == 2); });
    CHECK(f.d0.quiesced() == one);
    CHECK(f.backend.drained());
    for (const auto& inner :
         {std::function<Result<void>(const Graph::DrainedBody&)>(
              [&](const auto& body) { return f.drain(d1, body); }),
          {[&](const auto& body) { return f.graph().with_all_drained(f.gs(), body); }}}) {
      const auto result = inner([&](DrainBypass&) -> Result<void> {
        CHECK(d1.quiesced() >= 1);
        CHECK(f.backend.drained());
        return ok();
      });
      CHECK(result.has_value());
      CHECK(f.d0.quiesced() == one);
    }
    CHECK(f.graph().change(f.gs(), [](GraphWrite&) {}).has_value());
    CHECK(f.backend.drained());
    CHECK(f.begun() == 1);
    CHECK(f.ended() == 0);
  });
  CHECK(f.begun() == 1);
  CHECK(f.ended() == 1);
  f.check_open();
}

TEST_CASE("Drain 2: an inner section that fails leaves the outer one", "[drain]") {
  DRAIN_CASES();
  DrainCase f(scope, place);
  f.drained([&] {
    f.user.busy = true;
    CHECK_FALSE(f.drain(f.d0, [](DrainBypass&) -> Result<void> { return ok(); }, 10ms).has_value());
    f.user.busy = false;
    CHECK(f.d0.quiesced() == 1);
    CHECK(f.backend.drained());
  });
  f.check_open();
}

TEST_CASE("Drain 2: a body's error is the section's, which ends all the same", "[drain]") {
  DRAIN_CASES();
  DrainCase f(scope, place);
  const auto result = f.drain(
      f.d0, [](DrainBypass&) -> Result<void> { return fail(ErrorKind::kBusy, "as it wished"); });
  REQUIRE_FALSE(result.has_value());
  CHECK(result.error().message() == "as it wished");
  f.check_open();
}

TEST_CASE("Drain 2: a section that ends before the one it holds dies", "[drain][death]") {
  // Sections are calls, so the order can be broken only from another stack.
  CHECK(rhea::test::dies([] {
    auto* f = new BlockFixture;
    Node& node = f->add("driver=test-disk,node-name=d0");
    Gs& gs = f->gs();
    const auto drain = [&](Co&) -> Result<void> {
      return f->graph().with_drained(gs, node, [](DrainBypass&) -> Result<void> { return ok(); });
    };
    f->graph()
        .with_drained(gs, node,
                      [&](DrainBypass&) { return f->graph().run_sync(gs, f->main(), drain); })
        .value();
    ::_exit(0);
  }));
}

TEST_CASE("Drain 3: in a chain each node and the user are told once an edge", "[drain]") {
  DRAIN_CASES();
  DrainCase f(scope, place, kChain);
  Node& base = *f.graph().find(f.gs(), "base");
  const auto result = f.drain(base, [&](DrainBypass&) -> Result<void> {
    check_counts(f, scope, {{"base", 1, 1}, {"middle", 1, 2}, {"top", 1, 2}});
    CHECK(f.begun() == 1);
    return ok();
  });
  CHECK(result.has_value());
  CHECK(f.ended() == 1);
  f.check_open();
}

TEST_CASE("Drain 3: a node above both sides of a diamond is told by each, the user once",
          "[drain]") {
  DRAIN_CASES();
  DrainCase f(scope, place, "driver=test-disk,node-name=unused");
  f.add("driver=test-disk,node-name=base");
  f.add("driver=test-filter,node-name=left,file=base");
  f.add("driver=test-filter,node-name=right,file=base");
  Node& top = f.add("driver=test-filter,node-name=top,file=left,file2=right");
  BlockBackend above(f.graph(), "vd1", kReader);
  FakeUser user;
  above.set_user(&user);
  REQUIRE(above.insert(f.gs(), top).has_value());
  const int before = user.begun;
  const auto result = f.drain(*f.graph().find(f.gs(), "base"), [&](DrainBypass&) -> Result<void> {
    check_counts(f, scope, {{"base", 1, 1}, {"left", 1, 2}, {"right", 1, 2}, {"top", 2, 3}});
    CHECK(user.begun - before == 1);
    return ok();
  });
  CHECK(result.has_value());
  CHECK(user.begun == user.ended);
  CHECK(user.begun - before == 1);
  REQUIRE(above.remove(f.gs()).has_value());
  f.check_open();
}

TEST_CASE("Drain 3: a look at stacked diamonds sees each node once", "[drain]") {
  DRAIN_CASES();
  constexpr int kDiamonds = 40;
  DrainCase f(scope, place, "driver=test-disk,node-name=unused");
  Node& base = f.add("driver=test-disk,node-name=top0");
  std::string top = "top0";
  for (int i = 1; i <= kDiamonds; ++i) {
    f.add(fmt::format("driver=test-filter,node-name=left{},file={}", i, top));
    f.add(fmt::format("driver=test-filter,node-name=right{},file={}", i, top));
    f.add(fmt::format("driver=test-filter,node-name=top{0},file=left{0},file2=right{0}", i));
    top = fmt::format("top{}", i);
  }
  BlockBackend above(f.graph(), "vd1", kReader);
  FakeUser user;
  above.set_user(&user);
  REQUIRE(above.insert(f.gs(), *f.graph().find(f.gs(), top)).has_value());
  int asked = 0;
  const auto result = f.drain(base, [&](DrainBypass&) -> Result<void> {
    asked = std::exchange(user.polls, 0);
    CHECK_FALSE(base.busy());
    CHECK(user.polls == 1);
    user.busy = true;
    CHECK(base.busy());  // a new look, which does not stop at what the one before has seen
    user.busy = false;
    return ok();
  });
  CHECK(result.has_value());
  CHECK(asked > 0);
  CHECK(asked < 10);  // looks of the drain: each asks the user once
  REQUIRE(above.remove(f.gs()).has_value());
  f.check_open();
}

TEST_CASE("Resize: news of it goes through stacked diamonds once, up and down", "[resize]") {
  constexpr int kDiamonds = 40;  // 2^40 ways
  DrainCase f(Scope::kNode, Place::kMain, "driver=test-disk,node-name=unused");
  Node& base = f.add("driver=test-disk,node-name=top0");
  Node* top = &base;
  for (int i = 1; i <= kDiamonds; ++i) {
    for (const char* side : {"left", "right"}) {
      f.add(fmt::format("driver=test-filter,node-name={}{},file={}", side, i, top->name()));
    }
    top = &f.add(fmt::format("driver=test-filter,node-name=top{0},file=left{0},file2=right{0}", i));
  }
  BlockBackend above(f.graph(), "vd1", kReader);
  FakeUser user;
  above.set_user(&user);
  REQUIRE(above.insert(f.gs(), *top).has_value());
  const int before = user.resizes;
  for (Node* through : {&base, top}) {
    const uint64_t bytes = above.length() + (1 << 20);
    REQUIRE(f.graph().resize(f.gs(), *through, bytes).has_value());
    CHECK(above.length() == bytes);
  }
  CHECK(user.resizes - before == 2);
  REQUIRE(above.remove(f.gs()).has_value());
}

TEST_CASE("Drain 3: a drained node leaves those below it alone", "[drain]") {
  DrainCase f(Scope::kNode, Place::kMain, kChain);
  const auto result = f.graph().with_drained(
      f.gs(), *f.graph().find(f.gs(), "middle"), [&](DrainBypass&) -> Result<void> {
        CHECK(f.graph().find(f.gs(), "base")->quiesced() == 0);
        CHECK(f.graph().find(f.gs(), "top")->quiesced() == 1);
        return ok();
      });
  CHECK(result.has_value());
}

TEST_CASE("Drain 4: who attaches to a drained node is drained, who leaves is not", "[drain]") {
  DRAIN_CASES();
  DrainCase f(scope, place);
  BlockBackend other(f.graph(), "vd1", kReader);
  FakeUser user;
  other.set_user(&user);
  f.drained([&] {
    REQUIRE(other.insert(f.gs(), f.d0).has_value());
    CHECK(other.drained());
    CHECK(user.drained());
    CHECK(user.begun - user.ended == 1);
    REQUIRE(f.backend.remove(f.gs()).has_value());
    CHECK_FALSE(f.backend.drained());
    CHECK_FALSE(f.user.drained());
  });
  CHECK_FALSE(other.drained());
  CHECK(user.begun == user.ended);
  REQUIRE(other.remove(f.gs()).has_value());
  REQUIRE(f.backend.insert(f.gs(), f.d0).has_value());
  f.check_open();
}

TEST_CASE("Drain 4: a parent moves between nodes that are drained and not", "[drain]") {
  DRAIN_CASES();
  DrainCase f(scope, place);
  Node& d1 = f.add("driver=test-disk,node-name=d1");
  f.drained([&] {  // from the drained node to the other, and back
    REQUIRE(f.graph().replace(f.gs(), f.d0, d1).has_value());
    CHECK(f.backend.node(f.gs()) == &d1);
    CHECK(f.backend.drained() == (scope == Scope::kAll));
    CHECK(f.user.drained() == (scope == Scope::kAll));
    REQUIRE(f.graph().replace(f.gs(), d1, f.d0).has_value());
    CHECK(f.backend.drained());
    CHECK(f.user.begun - f.user.ended == 1);
    REQUIRE(f.graph().replace(f.gs(), f.d0, d1).has_value());
  });
  f.check_open();
  CHECK(TestDisk::of(d1).requests() == 1);
}

TEST_CASE("Drain 4: a child of a node in between is replaced while it is drained", "[drain]") {
  DRAIN_CASES();
  DrainCase f(scope, place, kChain);
  Node& base = *f.graph().find(f.gs(), "base");
  Node& other = f.add("driver=test-disk,node-name=other");
  const auto result = f.drain(base, [&](DrainBypass&) -> Result<void> {
    TRY(f.graph().replace(f.gs(), base, other));
    CHECK(f.backend.drained() == (scope == Scope::kAll));
    return ok();
  });
  CHECK(result.has_value());
  f.graph().close_unused(f.gs());
  CHECK(f.graph().find(f.gs(), "base") == nullptr);  // its only user left it
  f.check_open();
  CHECK(TestDisk::of(other).requests() == 1);
}

TEST_CASE("Drain 4: a node opened inside the section hears of it after it is open, and works",
          "[drain]") {
  DRAIN_CASES();
  DrainCase f(scope, place);
  f.drained([&] {
    Node& d1 = f.add("driver=test-disk,node-name=d1");
    CHECK(TestDisk::of(d1).calls.begun == (scope == Scope::kAll ? 1 : 0));
    CHECK_FALSE(TestDisk::of(d1).calls.before_open);
    Node& top = f.add("driver=test-filter,node-name=top,file=d1");
    REQUIRE(f.graph().replace(f.gs(), f.d0, top).has_value());
    CHECK(f.backend.drained() == (scope == Scope::kAll));
    CHECK_FALSE(f.graph().add(f.gs(), options("driver=test-disk,node-name=d2,bogus=1")));
  });
  Node& d1 = *f.graph().find(f.gs(), "d1");
  f.check_open();
  CHECK(TestDisk::of(d1).requests() == 1);
  CHECK(TestDisk::of(d1).calls.begun == TestDisk::of(d1).calls.ended);
}

TEST_CASE("Drain 6: what a callback wants of the graph while begin polls comes after it",
          "[drain]") {
  DRAIN_CASES();
  DrainCase f(scope, place);
  f.hold_one();
  bool detached = false;
  std::unique_ptr<Bh> wish = std::make_unique<Bh>(f.loop().service(), [&] {
    bql.assert_held();
    detached = f.backend.remove(f.gs()).has_value();
  });
  f.main().post([&] {
    wish->schedule();
    f.disk().release();
  });
  f.drained([&] { CHECK(f.backend.node(f.gs()) == &f.d0); });
  CHECK_FALSE(detached);
  f.wait_until([&] { return f.requests.done() == 1; });
  bql.assert_held();
  f.loop().turn();
  CHECK(detached);
  CHECK(f.user.begun == f.user.ended);
}

TEST_CASE("Drain 9: a user goes on in another context after the section, with several parents",
          "[drain]") {
  DRAIN_CASES();
  DrainCase f(scope, place);
  BlockBackend other(f.graph(), "vd1", kReader);
  REQUIRE(other.insert(f.gs(), f.d0).has_value());
  Requests others(f, other);
  AioContext& target = f.add_thread();
  f.hold_one();
  others.read(f.where);
  f.wait_until([&] { return f.disk().held() == 2; });
  f.main().post([&] { f.disk().release(); });
  f.drained([&] {
    for (Requests* requests : {&f.requests, &others}) requests->read(target);
    CHECK(f.disk().requests() == 2);
  });
  f.wait_until([&] { return f.requests.done() == 2 && others.done() == 2; });
  CHECK(others.failed() == 0);
  REQUIRE(other.remove(f.gs()).has_value());
  f.check_open();
}

TEST_CASE("Drain 9: a context goes while its user's node is drained", "[drain]") {
  DRAIN_CASES();
  DrainCase f(scope, place);
  auto thread = MUST(IOThread::create("old"));
  auto context = MUST(BlockContext::create(thread->context()));
  f.requests.read(thread->context());
  f.wait_until([&] { return f.requests.done() == 1; });
  f.drained([&] {
    context.reset();
    thread.reset();
    context = MUST(BlockContext::create(f.add_plain_thread()));
  });
  f.check_open();
  context.reset();
}

TEST_CASE("Drain 10: no medium, no parent and no name are no obstacles", "[drain]") {
  DRAIN_CASES();
  DrainCase f(scope, place);
  BlockBackend empty(f.graph(), "cd0", kReader);
  FakeUser user;
  empty.set_user(&user);
  f.add("driver=test-disk,node-name=alone");
  const NodeRef unnamed = MUST(f.graph().open(f.gs(), options("driver=test-disk")));
  for (Node* node : {f.graph().find(f.gs(), "alone"), unnamed.get()}) {
    const auto result = f.drain(*node, [&](DrainBypass&) -> Result<void> {
      CHECK(node->quiesced() == 1);
      return ok();
    });
    CHECK(result.has_value());
  }
  CHECK(user.begun == 0);
  Requests requests(f, empty);
  requests.read(f.where);
  f.wait_until([&] { return requests.done() == 1; });
  CHECK(requests.failed() == 1);
  f.check_open();
}

TEST_CASE("Drain 16: nobody is called after the end, nor after its own", "[drain]") {
  DRAIN_CASES();
  DrainCase f(scope, place);
  {
    BlockBackend brief(f.graph(), "vd1", kReader);
    auto user = std::make_unique<FakeUser>();
    brief.set_user(user.get());
    REQUIRE(brief.insert(f.gs(), f.d0).has_value());
    f.drained([&] {
      REQUIRE(brief.remove(f.gs()).has_value());
      CHECK(user->begun == user->ended);
      brief.set_user(nullptr);
      user.reset();
    });
  }
  const std::pair calls{f.user.begun, f.user.ended};
  f.check_open();
  f.settle();
  CHECK(calls == std::pair{f.user.begun, f.user.ended});
}

TEST_CASE("Drain 16: a node that is closed while drained hears nothing after its close",
          "[drain]") {
  DRAIN_CASES();
  DrainCase f(scope, place);
  f.add("driver=test-filter,node-name=above,file=d0");
  std::unique_ptr<BlockBackend> holder;
  const int breaches = f.disk().breaches();
  f.drained([&] {
    CHECK(f.graph().find(f.gs(), "above")->quiesced() != 0);
    CHECK(f.graph().del(f.gs(), "above").has_value());
    CHECK(f.graph().find(f.gs(), "above") == nullptr);
  });
  CHECK(TestFilter::late_calls == 0);
  CHECK(f.disk().breaches() == breaches);
  f.check_open();
}
