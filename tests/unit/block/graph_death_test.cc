// What the block graph's rules forbid ends the program, in every build (T002g).
#include <catch2/catch.hpp>

#include "tests/support/death.h"
#include "tests/support/sanitizer.h"
#include "tests/unit/block/file_fixture.h"
#include "util/rcu.h"

using namespace rhea;
using namespace rhea::block;
using namespace rhea::block::test;

namespace {

const auto kNothing = [](DrainBypass&) -> Result<void> { return ok(); };

// Unchecked: what the analysis refuses is what must abort.
void read_twice(Co& co) NO_THREAD_SAFETY_ANALYSIS {
  graph_lock.read_lock(co);
  graph_lock.read_lock(co);
}

// Unchecked: as above.
void unlock_unlocked(Co& co) NO_THREAD_SAFETY_ANALYSIS { graph_lock.read_unlock(co); }

/// Runs `body(fixture)` in a child and says whether it aborted. The child makes its own fixture, so
/// that no thread is missing there; it ends without taking it down, which would abort by itself.
template <class F>
bool dies_with_graph(F&& body) {
  return rhea::test::dies([&] {
    auto* f = new BlockFixture;
    body(*f);
    ::_exit(0);
  });
}

/// The same for what runs in a coroutine of main. Waits until it is over.
template <class F>
bool dies_in_coroutine(F&& body) {
  return dies_with_graph([&](BlockFixture& f) {
    Gs& gs = f.gs();
    f.graph()
        .run_sync(gs, f.main(),
                  [&](Co& co) -> Result<void> {
                    body(f, gs, co);
                    return ok();
                  })
        .value();
  });
}

/// And for a handler of main's block context, run by a nested poll.
template <class F>
bool dies_in_handler(F&& body) {
  return dies_with_graph([&](BlockFixture& f) {
    Gs& gs = f.gs();
    bool ran = false;
    f.main().post([&] {
      body(f, gs);
      ran = true;
    });
    f.loop().waiter().until(gs, [&] { return ran; });
  });
}

/// TSan starts no thread in a forked child.
constexpr bool kThreads = !rhea::test::kTsan;

/// And for a thread of its own with a block context.
template <class F>
bool dies_on_iothread(F&& body) {
  if (!kThreads) return true;
  return dies_with_graph([&](BlockFixture& f) {
    Gs& gs = f.gs();
    AioContext& thread = f.add_thread();
    std::atomic<bool> ran = false;
    thread.post([&] {
      body(f, gs);
      ran = true;
      f.graph().kick();
    });
    f.loop().waiter().until(gs, [&] { return ran.load(); });
  });
}

const auto kChange = [](BlockFixture& f, Gs& gs) {
  f.graph().change(gs, [](GraphWrite&) {}).value();
};
const auto kDrainAll = [](BlockFixture& f, Gs& gs) {
  f.graph().with_all_drained(gs, kNothing).value();
};
const auto kRunSync = [](BlockFixture& f, Gs& gs) {
  f.graph().run_sync(gs, f.main(), [](Co&) -> Result<void> { return ok(); }).value();
};
const auto kPoll = [](BlockFixture& f, Gs&) { f.main().poll(PollMode::kNonBlocking); };

}  // namespace

TEST_CASE("T002g: what is legal lives", "[graph][death]") {
  // The helpers below would hold for anything if the child died of something else.
  CHECK_FALSE(dies_with_graph([](BlockFixture& f) {
    kChange(f, f.gs());
    kDrainAll(f, f.gs());
    kRunSync(f, f.gs());
    kPoll(f, f.gs());
  }));
  CHECK_FALSE(dies_in_coroutine([](BlockFixture&, Gs&, Co& co) {
    GraphReadGuard reading(co);
    co.reschedule();
  }));
  CHECK_FALSE(dies_in_handler([](BlockFixture&, Gs&) {}));
  if (kThreads) CHECK_FALSE(dies_on_iothread([](BlockFixture&, Gs&) {}));
}

TEST_CASE("T002g: a coroutine that reads twice, or unlocks what it has not, dies",
          "[graph][death]") {
  CHECK(dies_in_coroutine([](BlockFixture&, Gs&, Co& co) { read_twice(co); }));
  CHECK(dies_in_coroutine([](BlockFixture&, Gs&, Co& co) { unlock_unlocked(co); }));
}

TEST_CASE("T002g: a change that is not at the top of main dies", "[graph][death]") {
  CHECK(dies_in_coroutine([](BlockFixture& f, Gs& gs, Co&) { kChange(f, gs); }));
  CHECK(dies_in_coroutine([](BlockFixture& f, Gs& gs, Co& co) {
    GraphReadGuard reading(co);
    kChange(f, gs);
  }));
  CHECK(dies_in_handler(kChange));
  CHECK(dies_on_iothread(kChange));
}

TEST_CASE("T002g: a drain that is not at the top of main dies", "[graph][death]") {
  CHECK(dies_in_coroutine([](BlockFixture& f, Gs& gs, Co&) { kDrainAll(f, gs); }));
  CHECK(dies_in_handler(kDrainAll));
  CHECK(dies_on_iothread(kDrainAll));
  CHECK(dies_on_iothread([](BlockFixture& f, Gs& gs) {
    Node& node = *f.graph().add(gs, options("driver=null-co,node-name=d0")).value();
    f.graph().with_drained(gs, node, kNothing).value();
  }));
}

TEST_CASE("T002g: run_sync that is not at the top of main dies", "[graph][death]") {
  CHECK(dies_in_coroutine([](BlockFixture& f, Gs& gs, Co&) { kRunSync(f, gs); }));
  CHECK(dies_in_handler(kRunSync));
  CHECK(dies_on_iothread(kRunSync));
}

TEST_CASE("T002g: waiting inside a section of the graph or of RCU dies", "[graph][death]") {
  const auto all = {
      std::function<void(BlockFixture&, Gs&)>(kChange), {kDrainAll}, {kRunSync}, {kPoll}};
  for (const auto& wait : all) {
    CHECK(dies_with_graph([&](BlockFixture& f) {
      GraphMainReadGuard reading(f.gs());
      wait(f, f.gs());
    }));
    CHECK(dies_with_graph([&](BlockFixture& f) {
      Gs& gs = f.gs();
      f.graph().change(gs, [&](GraphWrite&) { wait(f, gs); }).value();
    }));
    CHECK(dies_with_graph([&](BlockFixture& f) {
      Gs& gs = f.gs();
      RcuReadGuard reading;
      wait(f, gs);
    }));
  }
}

TEST_CASE("T002g: a yield in a write section, or under main's read guard, dies", "[graph][death]") {
  const auto yield = [](BlockFixture& f) {
    start_here(f.main(), [](Co& co) { co.reschedule(); }).value();
  };
  CHECK(dies_with_graph(
      [&](BlockFixture& f) { f.graph().change(f.gs(), [&](GraphWrite&) { yield(f); }).value(); }));
  CHECK(dies_with_graph([&](BlockFixture& f) {
    GraphMainReadGuard reading(f.gs());
    yield(f);
  }));
  CHECK_FALSE(dies_with_graph(yield));
}

TEST_CASE("T002g: main's read guard does not nest", "[graph][death]") {
  CHECK(dies_with_graph([](BlockFixture& f) {
    const auto again = [](Gs& gs) { GraphMainReadGuard inner(gs); };
    GraphMainReadGuard outer(f.gs());
    again(f.gs());
  }));
}

TEST_CASE("T002g: a reader on a thread without a block context dies", "[graph][death]") {
  if (!kThreads) return;
  CHECK(dies_with_graph([](BlockFixture& f) {
    auto thread = IOThread::create("plain").value();
    std::atomic<bool> ran = false;
    MUST(spawn(thread->context(), [&](Co& co) {
      GraphReadGuard reading(co);
      ran = true;
      f.graph().kick();
    }));
    f.loop().waiter().until(f.gs(), [&] { return ran.load(); });
  }));
}

TEST_CASE("File: a write that comes round its node's front while the image is another's dies",
          "[graph][death]") {
  rhea::test::TempDir dir;
  const std::string path = make_image(dir.file("image"), 4096);
  const auto dies = [&](bool active) {
    return dies_with_graph([&](BlockFixture& f) {
      Node& node =
          *f.graph().add(f.gs(), options("driver=file,node-name=f0,filename=" + path)).value();
      if (!active) f.graph().inactivate_all(f.gs()).value();
      f.graph()
          .run_sync(f.gs(), f.main(),
                    [&](Co& co) -> Result<void> {
                      std::byte block[512] = {};
                      iovec piece;
                      GraphReadGuard reading(co);
                      return node.driver().co_write(co, 0, vector_of(block, piece),
                                                    WriteFlags::kNone);
                    })
          .value();
    });
  };
  CHECK_FALSE(dies(true));
  CHECK(dies(false));
}
