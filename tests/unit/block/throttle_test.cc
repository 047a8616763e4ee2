#include "block/drivers/throttle.h"

#include <catch2/catch.hpp>

#include "tests/support/size.h"
#include "tests/unit/block/file_fixture.h"

using namespace rhea;
using namespace rhea::block;
using namespace rhea::block::test;
using Catch::Contains;
using std::chrono::milliseconds;

namespace {

ThrottleLimits limits(const std::string& text) {
  OptionReader reader(options(text));
  ThrottleLimits limits = MUST(ThrottleLimits::take(reader));
  MUST(reader.finish());
  return limits;
}

std::string limits_error(const std::string& text) {
  OptionReader reader(options(text));
  return message(ThrottleLimits::take(reader));
}

std::string throttled(const std::string& id) {
  return "driver=throttle,node-name=" + id +
         ",throttle-group=g,file.driver=null-co,file.read-zeroes=on";
}

/// Reads in the background, and who was served in which order.
struct Reads {
  explicit Reads(BlockFixture& fixture) : f(fixture) {}
  void start(Disk& disk, AioContext& where, char name, size_t bytes = 512) {
    ++started;
    MUST(spawn(where, [this, &disk, name, bytes](Co& co) {
      std::vector<std::byte> memory(bytes);
      iovec piece;
      MUST(disk.backend().co_read(co, 0, vector_of(memory, piece)));
      order.with([&](std::string& text) { text += name; });
      MainWait& waiter = f.loop().waiter();
      ++done;
      waiter.kick();
    }));
  }
  /// Behind what was started there: it has come to where it waits.
  void settle(AioContext& where) {
    MUST(f.graph().run_sync(f.gs(), where, [](Co&) -> Result<void> { return ok(); }));
  }
  void settle() { settle(f.main()); }
  void wait() {
    f.wait_until([this] { return done == started; });
  }
  BlockFixture& f;
  int started = 0;
  std::atomic<int> done{0};
  Guarded<std::string> order;
};

}  // namespace

TEST_CASE("ThrottleLimits: both spellings are read", "[throttle]") {
  const ThrottleLimits a = limits(
      "x-iops-total=100,x-iops-total-max=200,x-iops-size=4096,"
      "x-iops-total-max-length=3,x-bps-read=1000");
  CHECK(a.limits[ThrottleLimits::kIopsTotal] ==
        ThrottleLimit{.average = 100, .burst = 200, .burst_seconds = 3});
  CHECK(a.limits[ThrottleLimits::kBpsRead].average == 1000);
  CHECK(a.iops_size == 4096);
  CHECK(a == limits("limits.iops-total=100,limits.iops-total-max=200,limits.iops-size=4096,"
                    "limits.iops-total-max-length=3,limits.bps-read=1000"));
  CHECK(limits("x-iops-total=0").unlimited());
}

TEST_CASE("ThrottleLimits: what makes no sense is refused", "[throttle]") {
  CHECK(limits_error("x-iops-total=1,x-iops-read=1") ==
        "bps/iops/max total values and read/write values cannot be used at the same time");
  CHECK(limits_error("x-bps-total=1,x-bps-write-max=1") ==
        "bps/iops/max total values and read/write values cannot be used at the same time");
  CHECK(limits_error("x-bps-total=1000000000000001") ==
        "bps/iops/max values must be within [0, 1000000000000000]");
  CHECK(limits_error("x-bps-total=10,x-bps-total-max-length=0") == "the burst length cannot be 0");
  CHECK(limits_error("x-bps-total=10,x-bps-total-max-length=2") ==
        "burst length set without burst rate");
  CHECK(limits_error("x-bps-total=10,x-bps-total-max=1000000,"
                     "x-bps-total-max-length=10000000000") ==
        "burst length too high for this burst rate");
  CHECK(limits_error("x-bps-total-max=10") ==
        "bps_max/iops_max require corresponding bps/iops values");
  CHECK(limits_error("x-bps-total=10,x-bps-total-max=9") ==
        "bps_max/iops_max cannot be lower than bps/iops");
  CHECK(limits_error("x-iops-size=1,x-bps-total=1") ==
        "iops size requires an iops value to be set");
  CHECK(limits_error("limits.bogus=1") == "Invalid parameter 'limits.bogus'");
  CHECK_THAT(limits_error("x-iops-total=many"), Contains("'x-iops-total' expects integer"));
}

TEST_CASE("ThrottleBuckets: over an interval no more goes than the average and the slack",
          "[throttle]") {
  ThrottleBuckets buckets;
  buckets.set_limits(limits("x-iops-total=100"));
  Nanoseconds now{1};
  unsigned went = 0;
  const Nanoseconds end = now + std::chrono::seconds(10);
  while (now < end) {
    const Nanoseconds wait = buckets.wait(ThrottleDirection::kRead, now);
    if (wait == Nanoseconds(0)) {
      buckets.pour(ThrottleDirection::kRead, 4096);
      ++went;
    } else {
      now += wait;
      // What it said is enough.
      CHECK(buckets.wait(ThrottleDirection::kRead, now) == Nanoseconds(0));
    }
  }
  CHECK(went >= 1000);
  CHECK(went <= 1012);
}

TEST_CASE("ThrottleBuckets: a burst lasts its length, then the average holds", "[throttle]") {
  ThrottleBuckets buckets;
  buckets.set_limits(limits("x-bps-write=1000,x-bps-write-max=10000,x-bps-write-max-length=5"));
  Nanoseconds now{1};
  const auto run = [&](int seconds) {
    uint64_t bytes = 0;
    const Nanoseconds end = now + std::chrono::seconds(seconds);
    while (now < end) {
      const Nanoseconds wait = buckets.wait(ThrottleDirection::kWrite, now);
      if (wait == Nanoseconds(0)) {
        buckets.pour(ThrottleDirection::kWrite, 100);
        bytes += 100;
      }
      now += std::min(wait, Nanoseconds(end - now));
    }
    return bytes;
  };
  const uint64_t burst = run(5);
  CHECK(burst >= 50'000);
  CHECK(burst <= 52'000);
  const uint64_t after = run(10);
  CHECK(after <= 16'000);  // the rest of the burst's bucket, and the average
  CHECK(buckets.wait(ThrottleDirection::kRead, now) == Nanoseconds(0));
}

TEST_CASE("ThrottleBuckets: a large request counts as several operations", "[throttle]") {
  ThrottleBuckets buckets;
  buckets.set_limits(limits("x-iops-total=10,x-iops-size=4096"));
  buckets.pour(ThrottleDirection::kRead, 40960);
  const Nanoseconds wait = buckets.wait(ThrottleDirection::kWrite, Nanoseconds(0));
  CHECK(wait == std::chrono::milliseconds(900));  // ten, less the slack of one, at ten a second
}

TEST_CASE("Throttle: groups have names, and stay while nodes use them", "[throttle]") {
  BlockFixture f;
  ThrottleGroups& groups = f.graph().throttle_groups();
  CHECK(message(f.graph().add(f.gs(), options(throttled("t0")))) ==
        "Throttle group 'g' does not exist");
  REQUIRE(groups.add(f.gs(), "g", limits("x-iops-total=10")).has_value());
  CHECK(groups.add(f.gs(), "g", {}).error().kind() == ErrorKind::kExists);
  f.add(throttled("t0"));
  CHECK(message(groups.remove(f.gs(), "g")) == "object 'g' is in use, can not be deleted");
  REQUIRE(f.graph().del(f.gs(), "t0").has_value());
  CHECK(groups.remove(f.gs(), "g").has_value());
  CHECK(message(groups.remove(f.gs(), "g")) == "object 'g' not found");
  CHECK(message(f.graph().add(f.gs(), options("driver=throttle,node-name=t0"))) ==
        "Parameter 'throttle-group' is missing");
}

TEST_CASE("Throttle: requests over the limit wait for their time, each on its context",
          "[throttle]") {
  BlockFixture f;
  AioContext& thread = f.add_thread();
  REQUIRE(f.graph().throttle_groups().add(f.gs(), "g", limits("x-iops-total=200")).has_value());
  Disk disk(f, f.add(throttled("t0")));
  Reads reads(f);
  const auto began = std::chrono::steady_clock::now();
  for (int i = 0; i < 30; ++i) reads.start(disk, i % 2 == 0 ? f.main() : thread, 'a');
  reads.wait();
  // 20 and the one that overflows go at once, the others at 5 ms each.
  CHECK(std::chrono::steady_clock::now() - began >= milliseconds(40));
}

TEST_CASE("Throttle: the members of a group take turns", "[throttle]") {
  BlockFixture f;
  ThrottleGroup& group =
      *MUST(f.graph().throttle_groups().add(f.gs(), "g", limits("x-iops-total=1")));
  Disk a(f, f.add(throttled("t0"))), b(f, f.add(throttled("t1")));
  Reads reads(f);
  reads.start(a, f.main(), '-');  // fills the bucket
  reads.settle();
  for (int i = 0; i < 4; ++i) reads.start(a, f.main(), 'a');
  for (int i = 0; i < 4; ++i) reads.start(b, f.main(), 'b');
  reads.settle();
  CHECK(reads.done == 1);
  group.set_limits(f.gs(), limits("x-iops-total=1000"));
  reads.wait();
  const std::string order = reads.order.with([](const std::string& text) { return text; });
  CHECK(order == "-abababab");
  CHECK(group.limits() == limits("x-iops-total=1000"));
}

TEST_CASE("Throttle: taking the limits away lets all go", "[throttle]") {
  BlockFixture f;
  ThrottleGroup& group =
      *MUST(f.graph().throttle_groups().add(f.gs(), "g", limits("x-bps-total=1")));
  Disk disk(f, f.add(throttled("t0")));
  Reads reads(f);
  for (int i = 0; i < 5; ++i) reads.start(disk, f.main(), 'a');
  reads.settle();
  CHECK(reads.done == 1);
  group.set_limits(f.gs(), {});
  reads.wait();
}

TEST_CASE("Throttle: a drain lets parked requests go, and leaves the other members parked",
          "[throttle][drain]") {
  BlockFixture f;
  AioContext& thread = f.add_thread();
  ThrottleGroup& group =
      *MUST(f.graph().throttle_groups().add(f.gs(), "g", limits("x-bps-total=1")));
  Disk a(f, f.add(throttled("t0"))), b(f, f.add(throttled("t1")));
  Reads reads(f), others(f);
  for (int i = 0; i < 6; ++i) reads.start(a, i % 2 == 0 ? f.main() : thread, 'a');
  others.start(b, f.main(), 'b');
  others.settle();
  reads.settle(thread);
  const auto drained =
      f.graph().with_drained(f.gs(), a.node(), [](DrainBypass&) -> Result<void> { return ok(); });
  CHECK(message(drained) == "");
  reads.wait();
  CHECK(others.done == 0);
  reads.start(a, f.main(), 'a');  // limited again
  reads.settle();
  CHECK(reads.done == reads.started - 1);
  group.set_limits(f.gs(), {});
  reads.wait();
  others.wait();
}

TEST_CASE("Throttle: a node that is opened while all is drained begins without limits",
          "[throttle][drain]") {
  BlockFixture f;
  REQUIRE(f.graph().throttle_groups().add(f.gs(), "g", limits("x-bps-total=1")).has_value());
  const auto result = f.graph().with_all_drained(f.gs(), [&](DrainBypass&) -> Result<void> {
    Node& node = f.add(throttled("t0"));
    for (int i = 0; i < 3; ++i) {
      std::array<std::byte, 512> bytes;
      iovec piece;
      TRY(f.graph().run_sync(f.gs(), f.main(), [&](Co& co) -> Result<void> {
        GraphReadGuard reading(co);
        return node.co_read(co, 0, vector_of(bytes, piece));
      }));
    }
    return ok();
  });
  CHECK(message(result) == "");
}

TEST_CASE("Throttle: reopening moves a node to another group", "[throttle]") {
  BlockFixture f;
  ThrottleGroups& groups = f.graph().throttle_groups();
  REQUIRE(groups.add(f.gs(), "g", limits("x-iops-total=1")).has_value());
  REQUIRE(groups.add(f.gs(), "h", {}).has_value());
  f.add("driver=null-co,node-name=n0");
  Node& node = f.add("driver=throttle,node-name=t0,throttle-group=g,file=n0");
  CHECK(message(f.graph().reopen(
            f.gs(), options("driver=throttle,node-name=t0,throttle-group=i,file=n0"))) ==
        "Throttle group 'i' does not exist");
  REQUIRE(f.graph()
              .reopen(f.gs(), options("driver=throttle,node-name=t0,throttle-group=h,file=n0"))
              .has_value());
  CHECK(dynamic_cast<Throttle&>(node.driver()).group(f.gs())->id() == "h");
  CHECK(groups.remove(f.gs(), "g").has_value());
}

TEST_CASE("Throttle: writes, zeroes and discards count as writes; flushes do not", "[throttle]") {
  BlockFixture f;
  ThrottleGroup& group =
      *MUST(f.graph().throttle_groups().add(f.gs(), "g", limits("x-bps-write=1000000")));
  Disk disk(f, f.add(throttled("t0") + ",discard=unmap"));
  auto bytes = pattern(100'000, 1);
  const auto began = std::chrono::steady_clock::now();
  CHECK(disk.write(0, bytes).has_value());     // fills the slack
  CHECK(disk.zero(0, 20'000).has_value());     // goes at once, the next waits 20 ms
  CHECK(disk.discard(0, 20'000).has_value());  // and the next again
  CHECK(disk.write(0, std::span(bytes).first(1)).has_value());
  CHECK(disk.flush().has_value());
  CHECK(std::chrono::steady_clock::now() - began >= milliseconds(39));
  (void)group;
}

TEST_CASE("Throttle: members on several threads under limits that change", "[throttle][stress]") {
  BlockFixture f;
  AioContext& first = f.add_thread();
  AioContext& second = f.add_thread();
  ThrottleGroup& group =
      *MUST(f.graph().throttle_groups().add(f.gs(), "g", limits("x-iops-total=20000")));
  Disk a(f, f.add(throttled("t0"))), b(f, f.add(throttled("t1")));
  Reads reads(f);
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < 20; ++i) {
      reads.start(a, i % 2 == 0 ? first : second, 'a');
      reads.start(b, i % 3 == 0 ? second : first, 'b');
    }
    group.set_limits(f.gs(), limits(round % 2 == 0 ? "x-iops-total=10" : "x-iops-total=50000"));
    CHECK(f.graph()
              .with_drained(f.gs(), round % 2 == 0 ? a.node() : b.node(),
                            [](DrainBypass&) -> Result<void> { return ok(); })
              .has_value());
  }
  group.set_limits(f.gs(), limits("x-iops-total=100000"));
  reads.wait();
}
