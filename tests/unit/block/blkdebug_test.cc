#include "block/drivers/blkdebug.h"

#include <catch2/catch.hpp>

#include "tests/support/size.h"
#include "tests/unit/block/file_fixture.h"

using namespace rhea;
using namespace rhea::block;
using namespace rhea::block::test;
using Catch::Contains;

namespace {

/// A blkdebug node `d0` over an image of memory... of null, which reads zeroes.
std::string debug(const std::string& more) {
  return "driver=blkdebug,node-name=d0,image.driver=null-co,image.read-zeroes=on,image.size=1M,"
         "discard=unmap" +
         more;
}

Blkdebug& driver(Node& node) { return dynamic_cast<Blkdebug&>(node.driver()); }

/// A read that runs by itself.
struct Background {
  std::atomic<bool> done{false};
  std::optional<Result<void>> result;  // once done
  std::array<std::byte, 512> bytes{};
  iovec piece{};
};

void start_read(BlockFixture& f, Disk& disk, AioContext& where, Background& read) {
  MUST(spawn(where, [&](Co& co) {
    read.result = disk.backend().co_read(co, 0, vector_of(read.bytes, read.piece));
    MainWait& waiter = f.loop().waiter();
    read.done = true;
    waiter.kick();
  }));
}

}  // namespace

TEST_CASE("Blkdebug: a rule fails the requests that it names, with its errno", "[blkdebug]") {
  struct Row {
    std::string_view event;
    std::array<bool, 5> fails;  // read, write, zero, discard, flush
  };
  for (const Row& row : {Row{"read_aio", {true, false, false, false, false}},
                         Row{"write_aio", {false, true, false, false, false}},
                         Row{"pwritev_zero", {false, false, true, false, false}},
                         Row{"pdiscard", {false, false, false, true, false}},
                         Row{"flush_to_disk", {false, false, false, false, true}},
                         Row{"none", {true, true, true, true, true}}}) {
    BlockFixture f;
    Disk disk(f, f.add(debug(",inject-error.0.event=" + std::string(row.event) +
                             ",inject-error.0.errno=28")));
    auto bytes = pattern(512, 1);
    const std::array<Result<void>, 5> results{disk.read(0, bytes), disk.write(0, bytes),
                                              disk.zero(0, 4096), disk.discard(0, 4096),
                                              disk.flush()};
    for (size_t i = 0; i < results.size(); ++i) {
      INFO(row.event << " " << i);
      CHECK(results[i].has_value() == !row.fails[i]);
      if (results[i]) continue;
      CHECK(results[i].error().kind() == ErrorKind::kNoSpace);
      CHECK(results[i].error().os_errno() == 28);
    }
    CHECK(disk.status(0, 512).has_value());
  }
}

TEST_CASE("Blkdebug: iotype, sector and once narrow a rule down", "[blkdebug]") {
  BlockFixture f;
  Disk disk(f, f.add(debug(",inject-error.0.event=none,inject-error.0.iotype=read,"
                           "inject-error.0.sector=3,inject-error.0.once=on,"
                           "inject-error.0.immediately=on,"
                           "inject-error.1.event=none,inject-error.1.iotype=block-status")));
  auto bytes = pattern(1024, 1);
  CHECK(disk.write(1024, bytes).has_value());
  CHECK(disk.read(512, std::span(bytes).first(1024)).has_value());  // sectors 1 and 2
  CHECK(disk.read(2048, bytes).has_value());
  CHECK(message(disk.read(1024, bytes)) ==
        "injected into read of 1024 bytes at 1024: Input/output error");
  CHECK(disk.read(1024, bytes).has_value());
  CHECK_FALSE(disk.status(0, 512).has_value());
}

TEST_CASE("Blkdebug: a torn write leaves its first bytes", "[blkdebug]") {
  rhea::test::TempDir dir;
  BlockFixture f;
  const std::string path = make_image(dir.file("image"), 65536);
  Disk disk(f, f.add("driver=blkdebug,node-name=d0,image.driver=file,image.filename=" + path +
                     ",inject-error.0.event=write_aio,inject-error.0.torn=1000"));
  auto bytes = pattern(4096, 1);
  CHECK_FALSE(disk.write(512, bytes).has_value());
  const auto left = contents(path, 512, 4096);
  CHECK(std::ranges::equal(std::span(left).first(1000), std::span(bytes).first(1000)));
  CHECK(all_zero(std::span(left).subspan(1000)));
}

TEST_CASE("Blkdebug: a request is suspended until its test resumes it", "[blkdebug]") {
  BlockFixture f;
  AioContext& thread = f.add_thread();
  Disk disk(f, f.add(debug(",inject-error.0.event=read_aio,inject-error.0.suspend=A,"
                           "inject-error.0.once=on")));
  Background read;
  start_read(f, disk, thread, read);
  Blkdebug& injector = driver(disk.node());
  f.wait_until([&] { return injector.suspended("A") == 1; });
  CHECK_FALSE(read.done);
  CHECK(injector.resume("B") == 0);
  CHECK(injector.resume("A") == 1);
  f.wait_until([&] { return read.done.load(); });
  CHECK(read.result->has_value());
}

TEST_CASE("Blkdebug: a drain ends delays, and runs into its deadline with a suspended request",
          "[blkdebug][drain]") {
  BlockFixture f;
  AioContext& thread = f.add_thread();
  Disk disk(f, f.add(debug(",inject-error.0.event=read_aio,inject-error.0.delay-ns=60000000000,"
                           "inject-error.0.once=on,"
                           "inject-error.1.event=read_aio,inject-error.1.suspend=A")));
  Blkdebug& injector = driver(disk.node());
  Background late;
  start_read(f, disk, thread, late);
  f.wait_until([&] { return injector.delayed() == 1; });
  const auto nothing = [](DrainBypass&) -> Result<void> { return ok(); };
  CHECK(f.graph().with_drained(f.gs(), disk.node(), nothing).has_value());
  f.wait_until([&] { return late.done.load(); });  // it says so after it has left the node

  Background held;
  start_read(f, disk, thread, held);
  f.wait_until([&] { return injector.suspended("A") == 1; });
  const auto drained =
      f.graph().with_drained(f.gs(), disk.node(), nothing, std::chrono::milliseconds(20));
  REQUIRE_FALSE(drained.has_value());
  CHECK(drained.error().kind() == ErrorKind::kTimeout);
  CHECK_THAT(message(drained), Contains("read of 512 bytes at 0") && Contains("node 'd0'"));
  CHECK_FALSE(held.done);
  CHECK(injector.resume("A") == 1);
  f.wait_until([&] { return held.done.load(); });
  CHECK(held.result->has_value());
}

TEST_CASE("Blkdebug: a delayed request goes on by itself, and then fails if it should",
          "[blkdebug]") {
  BlockFixture f;
  Disk disk(f, f.add(debug(",inject-error.0.event=flush_to_disk,inject-error.0.delay-ns=3000000,"
                           "inject-error.0.errno=5")));
  const auto began = std::chrono::steady_clock::now();
  CHECK_FALSE(disk.flush().has_value());
  CHECK(std::chrono::steady_clock::now() - began >= std::chrono::milliseconds(3));
}

TEST_CASE("Blkdebug: align makes the front pad requests to whole blocks", "[blkdebug]") {
  BlockFixture f;
  Disk disk(f, f.add(debug(",align=4096,max-transfer=8192,inject-error.0.event=read_aio,"
                           "inject-error.0.sector=0,inject-error.0.immediately=on")));
  auto bytes = pattern(512, 1);
  CHECK_FALSE(disk.read(2048, bytes).has_value());  // its block begins at sector 0
  CHECK(disk.read(4096, bytes).has_value());
  CHECK_FALSE(disk.write(2048, bytes).has_value());  // reads first
  std::vector<std::byte> large(64 << 10);
  CHECK(disk.read(4096, large).has_value());
}

TEST_CASE("Blkdebug: mistaken rules are refused", "[blkdebug]") {
  BlockFixture f;
  const auto error = [&](const std::string& more) {
    return message(f.graph().add(f.gs(), options(debug(more))));
  };
  CHECK(error(",inject-error.0.errno=5") == "Parameter 'event' is missing");
  CHECK(error(",inject-error.0.event=boom") ==
        "Parameter 'inject-error.0.event' does not accept value 'boom'");
  CHECK(error(",inject-error=x") == "Invalid parameter type for 'inject-error', expected: array");
  CHECK(error(",inject-error.0=x") ==
        "Invalid parameter type for 'inject-error.0', expected: object");
  CHECK(error(",inject-error.0.event=none,inject-error.0.what=1") ==
        "Invalid parameter 'inject-error.0.what'");
  CHECK(error(",inject-error.0.event=none,inject-error.0.errno=0,inject-error.0.torn=1") ==
        "'torn' needs a write that fails");
  CHECK(error(",align=3") == "Cannot meet constraints with align 3");
  CHECK(error(",align=512,max-transfer=100") == "Cannot meet constraints with max-transfer 100");
  CHECK(f.graph().nodes(f.gs()).empty());
}

TEST_CASE("Blkdebug: reopening changes the rules", "[blkdebug]") {
  BlockFixture f;
  f.add("driver=null-co,node-name=n0");
  Disk disk(f, f.add("driver=blkdebug,node-name=d0,image=n0"));
  auto bytes = pattern(512, 1);
  CHECK(disk.read(0, bytes).has_value());
  REQUIRE(f.graph()
              .reopen(f.gs(), options("driver=blkdebug,node-name=d0,image=n0,"
                                      "inject-error.0.event=read_aio"))
              .has_value());
  CHECK_FALSE(disk.read(0, bytes).has_value());
}

TEST_CASE("Blkdebug: a failed flush below is a failed flush above", "[blkdebug]") {
  BlockFixture f;
  Disk disk(f, f.add("driver=raw,node-name=r0,file.driver=blkdebug,file.image.driver=null-co,"
                     "file.inject-error.0.event=flush_to_disk"));
  auto bytes = pattern(512, 1);
  CHECK(disk.write(0, bytes).has_value());
  CHECK(disk.flush().error().kind() == ErrorKind::kIo);
}
