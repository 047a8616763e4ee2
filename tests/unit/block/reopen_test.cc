// Several nodes change their options and children in one section, or none does.
#include <catch2/catch.hpp>

#include "block/graph.h"
#include "tests/unit/block/fake_user.h"

using namespace rhea;
using namespace rhea::block;
using namespace rhea::block::test;
using Catch::Contains;

namespace {

/// Two disks, each alone with its image.
struct TwoDisks : BlockFixture {
  TwoDisks() {
    add("driver=null-co,node-name=n0,size=1M");
    add("driver=null-co,node-name=n1,size=2M");
    REQUIRE(first.insert(gs(), add("driver=raw,node-name=r0,file=n0")).has_value());
    REQUIRE(second.insert(gs(), add("driver=raw,node-name=r1,file=n1")).has_value());
    first.set_user(&first_user);
  }
  ~TwoDisks() {
    REQUIRE(first.remove(gs()).has_value());
    REQUIRE(second.remove(gs()).has_value());
  }
  std::string reopen(std::initializer_list<std::string_view> nodes) {
    std::vector<OptionTree> trees;
    for (const std::string_view text : nodes) trees.push_back(options(text));
    const auto result = graph().reopen(gs(), std::move(trees));
    return result ? "" : result.error().message();
  }
  BlockBackend first{graph(), "vd0", kDisk}, second{graph(), "vd1", kDisk};
  FakeUser first_user;
};

}  // namespace

TEST_CASE("Reopen: two disks that share with nobody change images with each other", "[reopen]") {
  TwoDisks f;
  // One after the other there would be a moment with two writers of one image.
  CHECK_THAT(f.reopen({"driver=raw,node-name=r0,file=n1"}), Contains("Permission conflict"));
  CHECK(f.first.length() == 1 << 20);
  const int sections = f.first_user.begun;
  CHECK(f.reopen({"driver=raw,node-name=r0,file=n1", "driver=raw,node-name=r1,file=n0"}).empty());
  CHECK(f.first_user.begun == sections + 1);
  CHECK(f.first.length() == 2 << 20);
  CHECK(f.second.length() == 1 << 20);
}

TEST_CASE("Reopen: a mistake in one of several leaves all as they were", "[reopen]") {
  TwoDisks f;
  CHECK(f.reopen({"driver=raw,node-name=r0,file=n0,offset=4k", "driver=raw,node-name=r1"}) ==
        "Option 'file' must be given: a node's name");
  CHECK(f.reopen({"driver=raw,node-name=r0,file=n0,offset=4k",
                  "driver=raw,node-name=r1,file=n1,bogus=1"}) ==
        "Block format 'raw' does not support the option 'bogus'");
  CHECK(f.reopen({"driver=raw,node-name=r0,file=n0,offset=4k", "driver=raw,node-name=x"}) ==
        "Failed to find node with node-name='x'");
  CHECK_THAT(f.reopen({"driver=raw,node-name=r0,file=n0,offset=4k",
                       "driver=raw,node-name=r1,file=n1,read-only=on"}),
             Contains("'r1' is read-only"));
  CHECK(f.reopen({"driver=raw,node-name=r0,file=n0,offset=4k",
                  "driver=raw,node-name=r0,file=n0,offset=8k"}) ==
        "Node 'r0' is to be reopened twice at once");
  CHECK(f.first.length() == 1 << 20);
  CHECK_FALSE(f.graph().find(f.gs(), "r1")->read_only());
  // And they can still be.
  CHECK(f.reopen({"driver=raw,node-name=r0,file=n0,offset=4k",
                  "driver=raw,node-name=r1,file=n1,offset=8k"})
            .empty());
  CHECK(f.first.length() == (1 << 20) - 4096);
  CHECK(f.second.length() == (2 << 20) - 8192);
}

TEST_CASE("Reopen: nodes above each other change together", "[reopen]") {
  TwoDisks f;
  f.add("driver=raw,node-name=between,file=n0");
  CHECK(f.reopen({"driver=raw,node-name=between,file=n0,size=512k",
                  "driver=raw,node-name=r0,file=between,offset=4k"})
            .empty());
  CHECK(f.first.length() == (512 << 10) - 4096);
  // A circle is seen however it is made.
  CHECK_THAT(
      f.reopen({"driver=raw,node-name=r0,file=between", "driver=raw,node-name=between,file=r0"}),
      Contains("would create a cycle"));
  CHECK(f.reopen({"driver=raw,node-name=r0,file=n0"}).empty());
  CHECK(f.reopen({}).empty());
}
