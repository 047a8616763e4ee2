#include "devices/io_error_policy.h"

#include <catch2/catch.hpp>
#include <cerrno>
#include <functional>

#include "tests/unit/block/block_fixture.h"

using namespace rhea;
using namespace rhea::devices;

namespace {

struct Sink final : IoErrorSink {
  void io_error(const IoError& error) override REQUIRES(bql) { seen.push_back(error); }
  std::vector<IoError> seen;
};

struct FakeRequest final : IoErrorPolicy::Request {
  bool given_up() const noexcept override { return ++looks > gives_up_after; }
  void park() override { ++parked; }
  void unpark() override { ++parked; }
  mutable int looks = 0;
  int gives_up_after = 1000, parked = 0;
};

Error host_error(int os_errno) { return fail_errno(os_errno, "the host"); }

}  // namespace

TEST_CASE("IoErrorPolicy: a request that is given up as it begins to wait does not wait",
          "[io-error]") {
  block::test::BlockFixture f;
  Sink sink;
  IoErrorPolicy policy({.device = "d", .node = "n", .on_read_error = OnIoError::kStop}, f.loop(),
                       sink);
  FakeRequest request;
  request.gives_up_after = 1;  // between the look at the error and the list of those that wait
  const auto result = f.graph().run_sync(f.gs(), f.main(), [&](Co& co) {
    return policy.attempt(co, request, IoError::Operation::kRead,
                          [] { return Result<void>(host_error(EIO)); });
  });
  CHECK_FALSE(result.has_value());
  CHECK(request.looks == 3);
  CHECK(request.parked == 0);
}

TEST_CASE("IoErrorPolicy: what the policies make of an error", "[io-error]") {
  struct Row {
    OnIoError policy;
    int error;
    bool succeeds;
    OnIoError told;
  };
  for (const Row& row : {Row{OnIoError::kReport, EIO, false, OnIoError::kReport},
                         Row{OnIoError::kIgnore, EIO, true, OnIoError::kIgnore},
                         Row{OnIoError::kNoSpace, EIO, false, OnIoError::kReport},
                         Row{OnIoError::kReport, ENOSPC, false, OnIoError::kReport}}) {
    block::test::BlockFixture f;
    Sink sink;
    IoErrorPolicy policy({.device = "d", .node = "n", .on_write_error = row.policy}, f.loop(),
                         sink);
    policy.set_node("other");
    FakeRequest request;
    const auto result = f.graph().run_sync(f.gs(), f.main(), [&](Co& co) {
      return policy.attempt(co, request, IoError::Operation::kWrite,
                            [&] { return Result<void>(host_error(row.error)); });
    });
    CHECK(result.has_value() == row.succeeds);
    f.turn_until([&] { return !sink.seen.empty(); });
    REQUIRE(sink.seen.size() == 1);
    CHECK(sink.seen[0].action == row.told);
    CHECK(sink.seen[0].node == "other");
    CHECK(sink.seen[0].os_errno == row.error);
  }
}

TEST_CASE("IoErrorPolicy: a medium that is gone stops no machine", "[io-error]") {
  block::test::BlockFixture f;
  Sink sink;
  IoErrorPolicy policy({.device = "d", .node = "n", .on_read_error = OnIoError::kStop}, f.loop(),
                       sink);
  block::BlockBackend empty(f.graph(), "drive", {});
  FakeRequest request;
  request.gives_up_after = 1;
  const auto result = f.graph().run_sync(f.gs(), f.main(), [&](Co& co) {
    return policy.attempt(co, request, IoError::Operation::kRead,
                          [&] { return empty.co_flush(co); });
  });
  CHECK_FALSE(result.has_value());
  CHECK(request.looks == 1);
  CHECK(request.parked == 0);
  empty.close();
}
