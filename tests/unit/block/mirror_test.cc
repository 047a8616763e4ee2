#include "block/mirror.h"

#include <catch2/catch.hpp>
#include <random>

#include "tests/support/size.h"
#include "tests/unit/block/block_fixture.h"
#include "tests/unit/block/job_events.h"
#include "tests/unit/block/test_drivers.h"

using namespace rhea;
using namespace rhea::block;
using namespace rhea::block::test;
using Catch::Contains;

namespace {

constexpr Permissions kDisk{
    .taken = Perm::kConsistentRead | Perm::kWrite,
    .shared = Perm::kConsistentRead | Perm::kWriteUnchanged | Perm::kResize};

MirrorConfig test_config(uint64_t granularity = 65536, std::string filter = "",
                         uint64_t speed = 0) {
  MirrorConfig config;
  config.id = "m0";
  config.filter_name = std::move(filter);
  config.speed = speed;
  config.granularity = granularity;
  return config;
}

/// A disk on `a`, and `b` to mirror it to.
struct Setup {
  explicit Setup(std::string_view size = "4M")
      : a(f.add(fmt::format("driver=test-disk,node-name=a,size={}", size))),
        b(f.add(fmt::format("driver=test-disk,node-name=b,size={}", size))),
        jobs(events) {
    MUST(disk.insert(f.gs(), a));
  }
  ~Setup() {
    jobs.cancel_all(f.gs(), f.graph());
    MUST(disk.remove(f.gs()));
    disk.close();
  }
  Result<void> mirror(const MirrorConfig& config = test_config()) {
    auto job = TRY(Mirror::create(f.gs(), f.graph(), a, b, config));
    return jobs.add(std::move(job));
  }
  BlockFixture f;
  Node& a;
  Node& b;
  BlockBackend disk{f.graph(), "vd0", kDisk};
  JobEvents events;
  Jobs jobs;
};

}  // namespace

TEST_CASE("Mirror: an image is copied, and its user goes on with the copy", "[mirror]") {
  Setup s;
  auto data = pattern(4 << 20, 3);
  REQUIRE(write(s.f, s.disk, s.f.main(), 0, data).has_value());
  REQUIRE(s.mirror().has_value());
  s.f.turn_until([&] { return s.events.ready == 1; });
  CHECK(s.jobs.find("m0")->offset() == 4 << 20);
  REQUIRE(s.jobs.find("m0")->complete().has_value());
  s.f.turn_until([&] { return s.events.ended == 1; });
  CHECK(s.events.error == std::nullopt);
  CHECK(s.disk.node(s.f.gs()) == &s.b);
  CHECK(TestDisk::of(s.b).bytes() == data);
  CHECK(s.events.statuses == std::vector<std::string>{"created", "running", "ready", "waiting",
                                                      "pending", "concluded", "null"});
  // Nothing holds the source any more.
  CHECK(s.f.graph().del(s.f.gs(), "a").has_value());
}

TEST_CASE("Mirror: what is written while it copies reaches the copy", "[mirror]") {
  Setup s;
  AioContext& thread = s.f.add_thread();
  auto data = pattern(4 << 20, 5);
  REQUIRE(write(s.f, s.disk, s.f.main(), 0, data).has_value());
  TestDisk::of(s.a).yield_in_requests();
  REQUIRE(s.mirror(test_config(4096)).has_value());
  // A guest that writes all the time, on another thread, until told to stop.
  std::atomic<bool> stop = false, stopped = false;
  MUST(spawn(thread, [&](Co& co) {
    std::mt19937 random(7);
    while (!stop) {
      const uint64_t offset = random() % ((4 << 20) - 5000);
      const size_t size = 1 + random() % 5000;
      const auto bytes = std::span(data).subspan(offset, size);
      for (std::byte& b : bytes) b = static_cast<std::byte>(random());
      iovec piece;
      MUST(s.disk.co_write(co, offset, vector_of(bytes, piece)));
      co.reschedule();
    }
    stopped = true;
    s.f.loop().waiter().kick();
  }));
  s.f.turn_until([&] { return s.events.ready == 1; });
  REQUIRE(s.jobs.find("m0")->complete().has_value());
  s.f.turn_until([&] { return s.events.ended == 1; });
  CHECK(s.disk.node(s.f.gs()) == &s.b);
  stop = true;
  s.f.wait_until([&] { return stopped.load(); });
  CHECK(TestDisk::of(s.b).bytes() == data);
}

TEST_CASE("Mirror: a slow copy does not land on top of a newer one", "[mirror]") {
  Setup s("4k");
  auto before = pattern(4096, 3), after = pattern(4096, 5);
  REQUIRE(write(s.f, s.disk, s.f.main(), 0, before).has_value());
  TestDisk& copy = TestDisk::of(s.b);
  copy.hold();
  REQUIRE(s.mirror(test_config(4096)).has_value());
  s.f.turn_until([&] { return copy.held() == 1; });  // it has read what is old now
  copy.let_new_pass();
  REQUIRE(write(s.f, s.disk, s.f.main(), 0, after).has_value());
  int turns = 0;
  s.f.turn_until([&] {  // for a second copy, if there were one
    s.f.loop().service().notify();
    return ++turns > 100;
  });
  copy.release();
  s.f.turn_until([&] { return s.events.ready == 1; });
  REQUIRE(s.jobs.find("m0")->complete().has_value());
  s.f.turn_until([&] { return s.events.ended == 1; });
  CHECK(copy.bytes() == after);
}

TEST_CASE("Mirror: a cancelled job leaves the source in place", "[mirror]") {
  Setup s;
  REQUIRE(s.mirror().has_value());
  SECTION("before it is ready") {
    TestDisk::of(s.a).hold();
    s.jobs.find("m0")->cancel(Job::Cancel::kSoft);
    TestDisk::of(s.a).release();
    s.f.turn_until([&] { return s.events.ended == 1; });
    CHECK(std::ranges::count(s.events.statuses, "aborting") == 1);
  }
  SECTION("once it is ready: it ends well, with a copy of this moment") {
    s.f.turn_until([&] { return s.events.ready == 1; });
    auto data = pattern(512, 9);
    REQUIRE(write(s.f, s.disk, s.f.main(), 1024, data).has_value());
    s.jobs.find("m0")->cancel(Job::Cancel::kSoft);
    s.f.turn_until([&] { return s.events.ended == 1; });
    CHECK(std::ranges::count(s.events.statuses, "aborting") == 0);
    CHECK(TestDisk::of(s.b).bytes() == TestDisk::of(s.a).bytes());
  }
  CHECK(s.disk.node(s.f.gs()) == &s.a);
  CHECK(s.f.graph().del(s.f.gs(), "b").has_value());
}

TEST_CASE("Mirror: a drain waits for the job to pause, and the job goes on after it",
          "[mirror][drain]") {
  Setup s;
  TestDisk& source = TestDisk::of(s.a);
  source.hold();
  REQUIRE(s.mirror().has_value());
  s.f.wait_until([&] { return source.held() != 0; });
  // Released by a thread, while main drains.
  AioContext& thread = s.f.add_thread();
  thread.post([&] { source.release(); });
  REQUIRE(s.f.graph()
              .with_all_drained(s.f.gs(),
                                [&](DrainBypass&) -> Result<void> {
                                  CHECK_FALSE(s.jobs.find("m0")->busy());
                                  const int before = source.requests();
                                  TRY(s.f.graph().run_sync(s.f.gs(), s.f.main(),
                                                           [](Co& co) -> Result<void> {
                                                             co.reschedule();
                                                             return ok();
                                                           }));
                                  CHECK(source.requests() == before);
                                  return ok();
                                })
              .has_value());
  s.f.turn_until([&] { return s.events.ready == 1; });
}

TEST_CASE("Mirror: a user's pause holds it, and a resume lets it go on", "[mirror]") {
  Setup s;
  REQUIRE(s.mirror().has_value());
  Job& job = *s.jobs.find("m0");
  REQUIRE(job.user_pause().has_value());
  CHECK(job.user_pause().error().message() == "Job 'm0' is already paused");
  s.f.wait_until([&] { return !job.busy(); });
  CHECK(s.events.ready == 0);
  REQUIRE(job.user_resume().has_value());
  s.f.turn_until([&] { return s.events.ready == 1; });
}

TEST_CASE("Mirror: mistakes are named and change nothing", "[mirror]") {
  Setup s;
  s.f.add("driver=test-disk,node-name=small,size=1M");
  Node& small = *s.f.graph().find(s.f.gs(), "small");
  const auto error = [&](Node& target, const MirrorConfig& config) {
    return Mirror::create(s.f.gs(), s.f.graph(), s.a, target, config).error().message();
  };
  CHECK(error(s.a, test_config()) == "Can't mirror node into itself");
  CHECK_THAT(error(small, test_config()), Contains("is smaller than"));
  CHECK_THAT(error(s.b, test_config(1000)), Contains("power of 2"));
  CHECK_THAT(error(s.b, test_config(65536, "a")), Contains("Duplicate"));
  BlockBackend other(s.f.graph(), "vd1", kDisk);
  REQUIRE(other.insert(s.f.gs(), s.b).has_value());
  CHECK_THAT(error(s.b, test_config()), Contains("Permission conflict"));
  REQUIRE(other.remove(s.f.gs()).has_value());
  CHECK(s.disk.node(s.f.gs()) == &s.a);
  CHECK(s.f.graph().nodes(s.f.gs()).size() == 3);
}

TEST_CASE("Mirror: it copies no faster than its speed", "[mirror]") {
  Setup s;
  const auto start = std::chrono::steady_clock::now();
  // Steps of 1 MiB and 0.8 MiB for each tenth of a second: three of the four steps wait.
  REQUIRE(s.mirror(test_config(65536, "", 8 << 20)).has_value());
  s.f.turn_until([&] { return s.events.ready == 1; });
  CHECK(std::chrono::steady_clock::now() - start >= std::chrono::milliseconds(250));
}
