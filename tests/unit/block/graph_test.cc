#include "block/graph.h"

#include <catch2/catch.hpp>

#include "tests/unit/block/block_fixture.h"

using namespace rhea;
using namespace rhea::block;
using namespace rhea::block::test;
using Catch::Contains;

namespace {

constexpr Permissions kDisk{.taken = Perm::kConsistentRead | Perm::kWrite,
                            .shared = Perm::kConsistentRead | Perm::kWriteUnchanged};

}  // namespace

TEST_CASE("Graph: a node that was added is found, and gone once it is deleted", "[graph]") {
  BlockFixture f;
  f.add("driver=null-co,node-name=d0,size=1M");
  REQUIRE(f.graph().find(f.gs(), "d0") != nullptr);
  CHECK(f.graph().find(f.gs(), "d0")->length() == 1 << 20);
  REQUIRE(f.graph().del(f.gs(), "d0").has_value());
  CHECK(f.graph().find(f.gs(), "d0") == nullptr);
  CHECK(f.graph().nodes(f.gs()).empty());
}

TEST_CASE("Graph: mistakes in options are named, and leave nothing behind", "[graph]") {
  BlockFixture f;
  const auto error = [&](std::string_view text) {
    return f.graph().add(f.gs(), options(text)).error().message();
  };
  CHECK(error("driver=bogus,node-name=a") == "Unknown driver 'bogus'");
  CHECK(error("driver=null-co,node-name=a,forma=1") ==
        "Block format 'null-co' does not support the option 'forma'");
  f.add("driver=null-co,node-name=b");
  CHECK(error("driver=null-co,node-name=b") == "Duplicate nodes with node-name='b'");
  CHECK(f.graph().nodes(f.gs()).size() == 1);
}

TEST_CASE("Graph: a node in use can not be deleted", "[graph]") {
  BlockFixture f;
  Node& node = f.add("driver=null-co,node-name=d0");
  BlockBackend backend(f.graph(), "vd0", kDisk);
  REQUIRE(backend.insert(f.gs(), node).has_value());
  CHECK(f.graph().del(f.gs(), "d0").error().message() == "Node d0 is in use");
  REQUIRE(backend.remove(f.gs()).has_value());
  CHECK(f.graph().del(f.gs(), "d0").has_value());
}

TEST_CASE("Graph: two writers of one node conflict", "[graph]") {
  BlockFixture f;
  Node& node = f.add("driver=null-co,node-name=d0");
  BlockBackend first(f.graph(), "vd0", kDisk), second(f.graph(), "vd1", kDisk);
  REQUIRE(first.insert(f.gs(), node).has_value());
  const auto refused = second.insert(f.gs(), node);
  REQUIRE_FALSE(refused.has_value());
  CHECK_THAT(refused.error().message(),
             Contains("Permission conflict on node 'd0': permissions 'write' are both required by "
                      "block device 'vd1'"));
  CHECK(second.node(f.gs()) == nullptr);
  REQUIRE(first.remove(f.gs()).has_value());
}

TEST_CASE("Graph: requests on main and on an iothread go through a backend", "[graph]") {
  BlockFixture f;
  AioContext& thread = f.add_thread();
  Node& node = f.add("driver=null-co,node-name=d0,read-zeroes=on,size=64k");
  BlockBackend backend(f.graph(), "vd0", kDisk);
  REQUIRE(backend.insert(f.gs(), node).has_value());
  for (AioContext* where : {&f.main(), &thread}) {
    auto bytes = pattern(4096, 1);
    REQUIRE(read(f, backend, *where, 0, bytes).has_value());
    CHECK(std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{0}; }));
    CHECK(read(f, backend, *where, 65536 - 4095, bytes).error().kind() ==
          ErrorKind::kInvalidArgument);
  }
  CHECK(backend.stats().kinds[0].operations == 2);
  CHECK(backend.stats().kinds[0].failed == 2);
  REQUIRE(backend.remove(f.gs()).has_value());
}

TEST_CASE("Graph: a request that came while the node was drained runs once after it", "[drain]") {
  BlockFixture f;
  AioContext& thread = f.add_thread();
  Node& node = f.add("driver=null-co,node-name=d0");
  BlockBackend backend(f.graph(), "vd0", kDisk);
  REQUIRE(backend.insert(f.gs(), node).has_value());
  std::atomic<int> done = 0;
  std::atomic<bool> started = false;
  std::byte byte{};
  REQUIRE(f.graph()
              .with_drained(f.gs(), node,
                            [&](DrainBypass&) -> Result<void> {
                              MUST(spawn(thread, [&](Co& co) {
                                started = true;
                                iovec piece;
                                MUST(backend.co_read(co, 0, vector_of({&byte, 1}, piece)));
                                ++done;
                                f.loop().waiter().kick();
                              }));
                              // Behind the coroutine in its context's queue: it has parked by then.
                              return f.graph().run_sync(f.gs(), thread, [&](Co&) -> Result<void> {
                                CHECK(done == 0);
                                return ok();
                              });
                            })
              .has_value());
  CHECK(started);
  f.wait_until([&] { return done == 1; });
  REQUIRE(backend.remove(f.gs()).has_value());
}
