// The drain suite, jobs: (8).
#include <catch2/catch.hpp>

#include "block/job.h"
#include "tests/support/watchdog.h"
#include "tests/unit/block/drain_suite.h"
#include "tests/unit/block/job_events.h"

using namespace rhea;
using namespace rhea::block;
using namespace rhea::block::test;
using namespace std::chrono_literals;
using Catch::Contains;

namespace {

/// What a job has done; outlives it.
struct Record {
  std::atomic<int> steps = 0;
  std::atomic<bool> returned = false;
  int finished = 0;  // main
  bool finished_in_drain = false;
};

/// Reads a byte of its node in each step until it is told to end; once it is ready, when it is
/// woken.
/// Thread: the knobs from any.
class ReadingJob final : public Job {
 public:
  ReadingJob(Graph& graph, AioContext& where, Node& node, Record& record)
      : Job(graph, "j0", where), node_(node), record_(record), backend_(graph, "j0", kReader) {
    backend_.let_requests_pass();
    backend_.set_user(this);
  }
  Result<void> insert(Gs& gs) { return backend_.insert(gs, node_); }
  std::string_view type() const noexcept override { return "test"; }

  void end() {
    ending_ = true;
    kick();
  }
  void become_ready() { becomes_ready_ = true; }
  /// As what a ready job waits for would.
  void poke() { kick(); }
  /// The next step stands still between the pause point and its request.
  void hold_step() { holding_ = true; }
  bool step_held() const { return held_ != nullptr; }
  void let_step_go() { held_.load()->wake(); }
  /// The next step starts that many helpers, which read as well.
  void use_helpers(int count) { helpers_ = count; }

 private:
  Result<void> work(Co& co) override {
    auto result = take_steps(co);
    record_.returned = true;
    return result;
  }
  /// The pause point comes last: the first step, and one that follows a wait, rely on the job's
  /// own.
  Result<void> take_steps(Co& co) {
    bool ready = false;
    do {
      ++record_.steps;
      if (ready) wait(co);
      TRY(read(co));
      if (becomes_ready_ && !ready) {
        ready = true;
        set_ready();
      }
    } while (!ending_ && !completing() && pause_point(co));
    return ok();
  }
  Result<void> read(Co& co) {
    for (int i = helpers_.exchange(0); i > 0; --i) {
      MUST(start_helper([this](Co& helper) { MUST(read_byte(helper)); }));
    }
    if (holding_.exchange(false)) {
      held_ = &co.coroutine();
      graph().kick();
      co.yield();
    }
    return read_byte(co);
  }
  Result<void> read_byte(Co& co) {
    std::byte byte{};
    iovec piece;
    return backend_.co_read(co, 0, vector_of({&byte, 1}, piece));
  }
  /// Changes the graph, as the last step of a real one does.
  Result<void> finish(Gs& gs, bool) override {
    ++record_.finished;
    record_.finished_in_drain = graph().drained_all() != 0 || node_.quiesced() != 0;
    return graph().change(gs, [](GraphWrite&) {});
  }
  void clean_up(Gs& gs) override {
    backend_.set_user(nullptr);
    MUST(backend_.remove(gs));
  }

  Node& node_;
  Record& record_;
  BlockBackend backend_;
  std::atomic<bool> ending_ = false, becomes_ready_ = false, holding_ = false;
  std::atomic<int> helpers_ = 0;
  std::atomic<Coroutine*> held_ = nullptr;
};

/// A job on the node that is drained, its coroutines where the case says.
class JobCase : public DrainCase {
 public:
  JobCase(Scope scope, Place place) : DrainCase(scope, place) { disk().yield_in_requests(); }
  ~JobCase() {
    disk().release();
    jobs.cancel_all(gs(), graph());
  }

  ReadingJob& make() {
    auto made = std::make_unique<ReadingJob>(graph(), where, d0, record);
    MUST(made->insert(gs()));
    job = made.get();
    unstarted = std::move(made);
    return *job;
  }
  void start() { REQUIRE(jobs.add(std::move(unstarted)).has_value()); }
  /// A job whose request is in the disk until disk().release().
  void start_held() {
    disk().hold();
    make();
    start();
    wait_until([&] { return disk().held() == 1; });
  }
  /// A job that has nothing to do until it is told to complete.
  void start_ready() {
    make().become_ready();
    start();
    turn_until([&] { return events.ready == 1; });
    wait_until([&] { return !job->busy(); });
  }
  /// Whoever could do something in the section has had the time to.
  void let_it_try() {
    MUST(graph().run_sync(gs(), where, [](Co& co) -> Result<void> {
      for (int i = 0; i < 10; ++i) co.reschedule();
      return ok();
    }));
  }
  /// It takes no step and sends no request, whatever time it has after `tempt`.
  void check_rests(const std::function<void()>& tempt = [] {}) {
    const int steps = record.steps, reads = disk().requests();
    tempt();
    let_it_try();
    CHECK(record.steps == steps);
    CHECK(disk().requests() == reads);
    CHECK(disk().held() == 0);
    CHECK_FALSE(job->busy());
  }
  void check_goes_on() {
    const int steps = record.steps;
    wait_until([&] { return record.steps > steps; });
  }
  /// It ends well, once, outside every section.
  void check_ends() {
    turn_until([&] { return events.ended == 1; });
    CHECK(events.error == std::nullopt);
    CHECK(record.finished == 1);
    CHECK_FALSE(record.finished_in_drain);
    check_open();
  }
  void end() {
    job->end();
    check_ends();
  }

  Record record;
  JobEvents events;
  Jobs jobs{events};
  std::unique_ptr<ReadingJob> unstarted;
  ReadingJob* job = nullptr;  // until it has ended
};

}  // namespace

TEST_CASE("Drain 8: a job whose request is under way pauses after it, and goes on", "[drain]") {
  DRAIN_CASES();
  JobCase f(scope, place);
  f.start_held();
  f.main().post([&] { f.disk().release(); });
  f.drained([&] { f.check_rests(); });
  CHECK(f.job->status() == JobStatus::kRunning);
  f.check_goes_on();
  f.end();
}

TEST_CASE("Drain 8: a job that is past its pause point sends its request before the section",
          "[drain]") {
  DRAIN_CASES();
  JobCase f(scope, place);
  f.make().hold_step();
  f.start();
  f.wait_until([&] { return f.job->step_held(); });
  f.main().post([&] { f.job->let_step_go(); });
  f.drained([&] {
    CHECK(f.disk().requests() == 1);
    f.check_rests();
  });
  f.check_goes_on();
  f.end();
}

TEST_CASE("Drain 8: a job's helpers end before the section", "[drain]") {
  DRAIN_CASES();
  JobCase f(scope, place);
  f.disk().hold();
  f.make().use_helpers(3);
  f.start();
  f.wait_until([&] { return f.disk().held() == 4; });
  f.main().post([&] { f.disk().release(); });
  f.drained([&] { f.check_rests(); });
  f.check_goes_on();
  f.end();
}

TEST_CASE("Drain 8: a job that starts in the section takes its first step after it", "[drain]") {
  DRAIN_CASES();
  JobCase f(scope, place);
  f.drained([&] {
    f.check_rests([&] {
      f.make();
      f.start();
    });
    CHECK(f.record.steps == 0);
  });
  f.check_goes_on();
  f.end();
}

TEST_CASE("Drain 8: a job that its user has paused stays so after the section", "[drain]") {
  DRAIN_CASES();
  JobCase f(scope, place);
  f.make();
  f.start();
  f.check_goes_on();
  SECTION("paused before it") {
    REQUIRE(f.job->user_pause().has_value());
    f.wait_until([&] { return !f.job->busy(); });
    f.drained([&] { f.check_rests(); });
  }
  SECTION("paused in it") {
    f.drained([&] { f.check_rests([&] { REQUIRE(f.job->user_pause().has_value()); }); });
  }
  f.check_rests();
  CHECK(f.job->status() == JobStatus::kPaused);
  REQUIRE(f.job->user_resume().has_value());
  f.check_goes_on();
  f.end();
}

TEST_CASE("Drain 8: a paused job that its user resumes in the section goes on after it",
          "[drain]") {
  DRAIN_CASES();
  JobCase f(scope, place);
  f.make();
  f.start();
  REQUIRE(f.job->user_pause().has_value());
  f.wait_until([&] { return !f.job->busy(); });
  f.drained([&] {
    f.check_rests([&] { REQUIRE(f.job->user_resume().has_value()); });
    CHECK(f.job->status() == JobStatus::kRunning);
  });
  f.check_goes_on();
  f.end();
}

TEST_CASE("Drain 8: a ready job that is woken in the section takes its step after it", "[drain]") {
  DRAIN_CASES();
  JobCase f(scope, place);
  f.start_ready();
  const int steps = f.record.steps;
  f.drained([&] {
    f.check_rests([&] { f.job->poke(); });
    CHECK(f.record.steps == steps);
  });
  f.wait_until([&] { return f.record.steps > steps; });
  CHECK(f.job->status() == JobStatus::kReady);
  f.end();
}

TEST_CASE("Drain 8: a ready job that is to complete in the section does after it", "[drain]") {
  DRAIN_CASES();
  JobCase f(scope, place);
  f.start_ready();
  f.drained([&] {
    f.check_rests([&] { REQUIRE(f.job->complete().has_value()); });
    CHECK_FALSE(f.record.returned);
  });
  f.check_ends();
}

TEST_CASE("Drain 8: a job that becomes ready while the section begins is told so after it",
          "[drain]") {
  DRAIN_CASES();
  JobCase f(scope, place);
  f.start_held();
  f.job->become_ready();
  f.main().post([&] { f.disk().release(); });
  f.drained([&] {
    f.check_rests();
    CHECK(f.events.ready == 0);
  });
  f.turn_until([&] { return f.events.ready == 1; });
  f.end();
}

TEST_CASE("Drain 8: a job that ends while the section begins is concluded after it", "[drain]") {
  DRAIN_CASES();
  JobCase f(scope, place);
  f.start_held();
  f.job->end();
  f.main().post([&] { f.disk().release(); });
  f.drained([&] {
    CHECK(f.record.returned);
    f.check_rests();
    CHECK(f.events.ended == 0);
    CHECK(f.record.finished == 0);
  });
  f.check_ends();
}

TEST_CASE("Drain 8: a job that has ended before the section is concluded after it", "[drain]") {
  DRAIN_CASES();
  JobCase f(scope, place);
  f.make().end();
  f.start();
  f.wait_until([&] { return f.record.returned && !f.job->busy(); });
  f.drained([&] {
    f.check_rests();
    CHECK(f.events.ended == 0);
    CHECK(f.record.finished == 0);
  });
  f.check_ends();
}

TEST_CASE("Drain 8: a job that is cancelled in the section ends after it", "[drain]") {
  DRAIN_CASES();
  JobCase f(scope, place);
  f.make();
  f.start();
  f.check_goes_on();
  f.drained([&] {
    f.check_rests([&] { f.job->cancel(Job::Cancel::kForce); });
    CHECK_FALSE(f.record.returned);
  });
  f.turn_until([&] { return f.events.ended == 1; });
  CHECK(f.record.finished == 0);
  CHECK(std::ranges::count(f.events.statuses, "aborting") == 1);
  f.check_open();
}

TEST_CASE("Drain 8: a job that fails while the section begins is concluded after it", "[drain]") {
  DRAIN_CASES();
  JobCase f(scope, place);
  f.start_held();
  f.disk().break_down();
  f.main().post([&] { f.disk().release(); });
  f.drained([&] {
    CHECK(f.record.returned);
    f.check_rests();
    CHECK(f.events.ended == 0);
  });
  f.turn_until([&] { return f.events.ended == 1; });
  CHECK_THAT(f.events.error.value_or("no error"), Contains("the disk is broken"));
  CHECK(f.record.finished == 0);
  CHECK(f.graph().drained_all() == 0);
  CHECK(f.d0.quiesced() == 0);
}

TEST_CASE("Drain 8: a job whose request outlasts the deadline is let go again", "[drain]") {
  DRAIN_CASES();
  JobCase f(scope, place);
  f.start_held();
  for (int round = 0; round < 2; ++round) {
    const auto late = f.drain(f.d0, [](DrainBypass&) -> Result<void> { return ok(); }, 20ms);
    REQUIRE_FALSE(late.has_value());
    CHECK_THAT(late.error().message(), Contains("on node 'd0', a read of 1 bytes at 0"));
  }
  f.disk().release();
  f.check_goes_on();
  f.end();
}
