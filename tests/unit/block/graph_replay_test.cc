// Races of the graph lock and of drain, replayed step by step (T002f).
#include <catch2/catch.hpp>
#include <semaphore>

#include "tests/support/sync_action.h"
#include "tests/support/watchdog.h"
#include "tests/unit/block/block_fixture.h"
#include "tests/unit/block/fake_user.h"

using namespace rhea;
using namespace rhea::block;
using namespace rhea::block::test;
using namespace std::chrono_literals;
using rhea::test::SyncAction;
using rhea::test::Watchdog;

namespace {

void spin_until(const std::atomic<bool>& flag) {
  while (!flag) std::this_thread::yield();
}

/// A coroutine on a thread that reads the graph until it is let go.
class Reader {
 public:
  Reader(BlockFixture& f, AioContext& where) : f_(f) {
    MUST(spawn(where, [this](Co& co) {
      started_ = true;
      {
        GraphReadGuard reading(co);
        inside_ = true;
        f_.graph().kick();
        self_ = &co.coroutine();
        if (!let_go_.exchange(true)) co.yield();
      }
      MainWait& main = f_.loop().waiter();
      out_ = true;
      main.kick();
    }));
  }
  /// Any thread, once.
  void let_go() {
    if (let_go_.exchange(true)) self_.load()->wake();
  }
  const std::atomic<bool>& started() const { return started_; }
  const std::atomic<bool>& inside() const { return inside_; }
  const std::atomic<bool>& out() const { return out_; }

 private:
  BlockFixture& f_;
  std::atomic<bool> started_ = false, inside_ = false, let_go_ = false, out_ = false;
  std::atomic<Coroutine*> self_ = nullptr;
};

/// A coroutine that locks the graph on `from` and reads on on `to`, where it is when this is made.
class MovingReader {
 public:
  MovingReader(BlockFixture& f, AioContext& from, AioContext& to) {
    MUST(spawn(from, [this, &f, &to](Co& co) {
      {
        GraphReadGuard reading(co);
        co.move_to(to);
        self_ = &co.coroutine();
        moved_ = true;
        f.graph().kick();
        co.yield();
        left_ = true;
      }
      f.graph().kick();
    }));
    f.wait_until([this] { return moved_.load(); });
  }
  /// Main, once.
  void let_go() { self_.load()->wake(); }
  /// It is about to unlock.
  bool left() const { return left_; }

 private:
  std::atomic<bool> moved_ = false, left_ = false;
  std::atomic<Coroutine*> self_ = nullptr;
};

/// Returns once everything that `context` had to do before is done, or waits for something else.
/// Any thread but its own.
void settle(AioContext& context) {
  std::atomic<bool> done = false;
  MUST(spawn(context, [&done](Co&) { done = true; }));
  spin_until(done);
}

Result<void> change(BlockFixture& f, std::function<void()> body = [] {}) {
  return f.graph().change(f.gs(), [&body](GraphWrite&) { body(); });
}

}  // namespace

TEST_CASE("T002f: a reader that is out but has not kicked does not delay the writer",
          "[graph][replay]") {
  Watchdog watchdog("T002f: held before its kick", 60s);
  BlockFixture f;
  AioContext& thread = f.add_thread();
  Reader reader(f, thread);
  f.wait_until([&] { return reader.inside().load(); });
  std::atomic<bool> at_the_point = false, changed = false;
  {
    const SyncAction hold("GraphLock::read_unlock: out, not yet kicked", [&] {
      at_the_point = true;
      spin_until(changed);
    });
    reader.let_go();
    spin_until(at_the_point);
    CHECK(change(f, [&] { changed = true; }).has_value());
  }
  f.wait_until([&] { return reader.out().load(); });
}

TEST_CASE("T002f: a kick between the writer's look and its sleep wakes it", "[graph][replay]") {
  Watchdog watchdog("T002f: kicked before it sleeps", 60s);
  BlockFixture f;
  AioContext& thread = f.add_thread();
  Reader reader(f, thread);
  f.wait_until([&] { return reader.inside().load(); });
  bool first = true;
  const auto began = std::chrono::steady_clock::now();
  {
    const SyncAction late("MainWait::until: looked, not yet asleep", [&] {
      if (!std::exchange(first, false)) return;
      reader.let_go();
      spin_until(reader.out());
    });
    CHECK(change(f).has_value());
  }
  CHECK_FALSE(first);
  CHECK(std::chrono::steady_clock::now() - began < kDrainDeadline);
}

TEST_CASE("T002f: a reader that arrives behind the flag parks and reads after the change",
          "[graph][replay]") {
  Watchdog watchdog("T002f: parked behind the flag", 60s);
  BlockFixture f;
  AioContext& thread = f.add_thread();
  std::unique_ptr<Reader> reader;
  bool parked = false, alone = false;
  {
    const SyncAction arrive("GraphLock::write_lock: flag up, not yet looked again", [&] {
      if (reader != nullptr) return;
      reader = std::make_unique<Reader>(f, thread);
      settle(thread);
      parked = reader->started() && !reader->inside();
    });
    CHECK(change(f, [&] { alone = !reader->inside(); }).has_value());
  }
  CHECK(parked);
  CHECK(alone);
  f.wait_until([&] { return reader->inside().load(); });
  reader->let_go();
  f.wait_until([&] { return reader->out().load(); });
}

TEST_CASE("T002f: a writer that retreats lets in who parked meanwhile", "[graph][replay]") {
  Watchdog watchdog("T002f: retreat", 60s);
  BlockFixture f;
  AioContext& first_thread = f.add_thread();
  AioContext& second_thread = f.add_thread();
  std::unique_ptr<Reader> first, second;
  std::atomic<bool> second_parked = false;
  {
    const SyncAction race({
        {"GraphLock::write_lock: nobody seen, flag still down",
         [&] {
           if (first != nullptr) return;
           first = std::make_unique<Reader>(f, first_thread);
           spin_until(first->inside());
         }},
        {"GraphLock::write_lock: flag up, not yet looked again",
         [&] {
           if (second != nullptr) return;
           second = std::make_unique<Reader>(f, second_thread);
           settle(second_thread);
           second_parked = second->started() && !second->inside();
         }},
    });
    // In the poll that follows the retreat: the second reads while the first still does, and the
    // first is let go only then, as if it needed something of the second's (D13, D14).
    f.main().post([&] {
      MUST(spawn(second_thread, [&](Co& co) {
        while (!second->inside()) co.reschedule();
        second->let_go();
        while (!second->out()) co.reschedule();
        first->let_go();
      }));
    });
    std::atomic<bool> ran = false;
    // The post above must not run before the writer has retreated: change() polls no sooner.
    CHECK(change(f, [&] { ran = true; }).has_value());
    CHECK(ran);
  }
  CHECK(second_parked);
  f.wait_until([&] { return first->out() && second->out(); });
}

TEST_CASE("T002f: a reader that moves to another context is waited for there", "[graph][replay]") {
  Watchdog watchdog("T002f: lock in A, unlock in B", 60s);
  BlockFixture f;
  AioContext& a = f.add_thread();
  AioContext& b = f.add_thread();
  for (int round = 0; round < 3; ++round) {  // the cells are at +n and -n from the second on
    MovingReader reader(f, a, b);
    const auto late = f.graph().change(f.gs(), [](GraphWrite&) {}, 20ms);
    REQUIRE_FALSE(late.has_value());
    CHECK(late.error().kind() == ErrorKind::kTimeout);
    f.main().post([&] { reader.let_go(); });
    bool after = false;
    CHECK(change(f, [&] { after = reader.left(); }).has_value());
    CHECK(after);
    settle(b);  // its last kick is behind it
  }
}

TEST_CASE("T002f: a reader is waited for after the context it locked in has gone",
          "[graph][replay]") {
  Watchdog watchdog("T002f: orphans", 60s);
  BlockFixture f;
  AioContext& b = f.add_thread();
  auto thread = MUST(IOThread::create("a"));
  auto a = MUST(BlockContext::create(thread->context()));
  MovingReader reader(f, thread->context(), b);
  a.reset();
  thread.reset();
  CHECK_FALSE(f.graph().change(f.gs(), [](GraphWrite&) {}, 20ms).has_value());
  f.main().post([&] { reader.let_go(); });
  bool after = false;
  CHECK(change(f, [&] { after = reader.left(); }).has_value());
  CHECK(after);
  settle(b);
  CHECK(change(f).has_value());  // the total of the dead is +1, b's cell -1
}

TEST_CASE("T002f: a request that finds the gate shut wakes the drain that saw it",
          "[drain][replay]") {
  Watchdog watchdog("T002f: gate retreat", 60s);
  BlockFixture f;
  AioContext& thread = f.add_thread();
  Node& node = f.add("driver=test-disk,node-name=d0");
  FakeUser user;
  BlockBackend backend(f.graph(), "vd0", kDisk);
  backend.set_user(&user);
  REQUIRE(backend.insert(f.gs(), node).has_value());
  Requests requests(f, backend);
  std::atomic<bool> counted = false, looked = false;
  user.on_begin = [&] {  // the gate is shut already
    user.on_begin = nullptr;
    requests.read(thread);
    spin_until(counted);
  };
  const auto began = std::chrono::steady_clock::now();
  {
    const SyncAction race({
        {"RequestGate::enter: counted, and found it shut",
         [&] {
           counted = true;
           spin_until(looked);
         }},
        {"MainWait::until: looked, not yet asleep", [&] { looked = true; }},
    });
    const auto drained =
        f.graph().with_drained(f.gs(), node, [](DrainBypass&) -> Result<void> { return ok(); });
    CHECK(drained.has_value());
  }
  CHECK(looked);
  // The deadline's timer would have woken it in the end, and the second look found all well.
  CHECK(std::chrono::steady_clock::now() - began < kDrainDeadline);
  f.wait_until([&] { return requests.done() == 1; });
  REQUIRE(backend.remove(f.gs()).has_value());
}

TEST_CASE("T002f: a backend may go while its last request has only its kick left",
          "[drain][replay]") {
  Watchdog watchdog("T002f: backend gone before the kick", 60s);
  BlockFixture f;
  AioContext& thread = f.add_thread();
  Node& node = f.add("driver=test-disk,node-name=d0");
  auto backend = std::make_unique<BlockBackend>(f.graph(), "vd0", kDisk);
  REQUIRE(backend->insert(f.gs(), node).has_value());
  std::atomic<bool> at_the_point = false, gone = false, done = false;
  {
    const SyncAction hold("RequestGate::leave: out, not yet kicked", [&] {
      at_the_point = true;
      spin_until(gone);
    });
    std::byte byte{};
    MUST(spawn(thread, [&, raw = backend.get()](Co& co) {
      iovec piece;
      MUST(raw->co_read(co, 0, vector_of({&byte, 1}, piece)));
      done = true;
    }));
    spin_until(at_the_point);
    CHECK(backend->remove(f.gs()).has_value());
    backend.reset();
    gone = true;
    spin_until(done);
  }
}
