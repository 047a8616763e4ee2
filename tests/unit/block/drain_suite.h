// What the cases of the drain suite share: each runs for {one node, all} x {main, an iothread}.
#pragma once

#include <string>

#include "tests/unit/block/fake_user.h"

namespace rhea::block::test {

enum class Scope : uint8_t { kNode, kAll };
enum class Place : uint8_t { kMain, kIoThread };

/// A disk "d0" behind a backend "vd0" with a user, a drain and a place for requests.
class DrainCase : public BlockFixture {
 public:
  DrainCase(Scope scope, Place place, std::string_view nodes = "driver=test-disk,node-name=d0")
      : where(place == Place::kMain ? main() : add_thread()),
        d0(add(nodes)),
        backend(graph(), "vd0", kDisk),
        requests(*this, backend),
        scope_(scope) {
    backend.set_user(&user);
    REQUIRE(backend.insert(gs(), d0).has_value());
    before_ = {user.begun, user.ended};
  }
  ~DrainCase() {
    if (backend.node(gs()) != nullptr) MUST(backend.remove(gs()));
  }

  Result<void> drain(Node& node, const Graph::DrainedBody& body,
                     Nanoseconds deadline = kDrainDeadline) {
    return scope_ == Scope::kAll ? graph().with_all_drained(gs(), body, deadline)
                                 : graph().with_drained(gs(), node, body, deadline);
  }
  /// With a body that can not fail, which must have run.
  void drained(const std::function<void()>& body) {
    const auto result = drain(d0, [&](DrainBypass&) -> Result<void> {
      body();
      return ok();
    });
    CHECK(result.has_value());
  }

  TestDisk& disk() { return TestDisk::of(d0); }
  /// What the user was told since the case began.
  int begun() const { return user.begun - before_.first; }
  int ended() const { return user.ended - before_.second; }
  /// Everything that `where` had to do is done, or waits for something else.
  void settle() {
    MUST(graph().run_sync(gs(), where, [](Co&) -> Result<void> { return ok(); }));
  }
  /// A request is under way in the disk from here until disk().release().
  void hold_one() {
    disk().hold();
    requests.read(where);
    wait_until([&] { return disk().held() == 1; });
  }
  /// Nothing is drained, and requests work.
  void check_open() {
    CHECK(graph().drained_all() == 0);
    for (Node* node : graph().nodes(gs())) CHECK(node->quiesced() == 0);
    CHECK(user.begun == user.ended);
    CHECK_FALSE(backend.drained());
    const int before = requests.done();
    requests.read(where);
    wait_until([&] { return requests.done() == before + 1; });
    CHECK(requests.failed() == 0);
  }

  AioContext& where;
  Node& d0;
  FakeUser user;
  BlockBackend backend;
  Requests requests;

 private:
  const Scope scope_;
  std::pair<int, int> before_;
};

}  // namespace rhea::block::test

/// For the start of a test case: `scope` and `place`, four times.
#define DRAIN_CASES()                                                            \
  const auto scope = GENERATE(Scope::kNode, Scope::kAll);                        \
  const auto place = GENERATE(Place::kMain, Place::kIoThread);                   \
  INFO((scope == Scope::kAll ? "all nodes" : "one node")                         \
       << ", requests on " << (place == Place::kMain ? "main" : "an iothread")); \
  const rhea::test::Watchdog watchdog("a drain", std::chrono::seconds(60))
