#include "block/drivers/raw.h"

#include <catch2/catch.hpp>

#include "tests/unit/block/file_fixture.h"

using namespace rhea;
using namespace rhea::block;
using namespace rhea::block::test;
using Catch::Contains;

namespace {

std::string window(const std::string& more) { return "driver=raw,node-name=r0,file=f0" + more; }

/// An image of 1 MiB with a pattern, as node f0.
struct Image {
  explicit Image(BlockFixture& f, const std::string& more = {})
      : path(make_image(dir.file("image"), 1 << 20)), bytes(pattern(1 << 20, 1)) {
    put(path, 0, bytes);
    f.add("driver=file,node-name=f0,filename=" + path + more);
  }
  rhea::test::TempDir dir;
  const std::string path;
  std::vector<std::byte> bytes;
};

}  // namespace

TEST_CASE("Raw: a window shows its part of the child, and nothing else changes", "[raw]") {
  BlockFixture f;
  const Image image(f, ",discard=unmap");
  Disk disk(f, f.add(window(",offset=65536,size=128k,discard=unmap")));
  CHECK(disk.node().length() == 128 << 10);
  std::vector<std::byte> back(128 << 10);
  REQUIRE(disk.read(0, back).has_value());
  CHECK(std::ranges::equal(back, std::span(image.bytes).subspan(65536, 128 << 10)));
  CHECK_FALSE(disk.read((128 << 10) - 1, std::span(back).first(2)).has_value());
  auto data = pattern(1000, 7);
  REQUIRE(disk.write(24, data, WriteFlags::kForceUnitAccess).has_value());
  CHECK(contents(image.path, 65536 + 24, 1000) == data);
  REQUIRE(disk.zero(64 << 10, 4096).has_value());
  CHECK(all_zero(contents(image.path, 128 << 10, 4096)));
  REQUIRE(disk.discard(68 << 10, 4096).has_value());
  CHECK(all_zero(contents(image.path, 132 << 10, 4096)));
  CHECK_FALSE(all_zero(contents(image.path, 136 << 10, 512)));
  const BlockStatus status = *disk.status(68 << 10, 60 << 10);
  CHECK(status.zero);
  CHECK(status.bytes == 4096);
  CHECK(disk.flush().has_value());
}

TEST_CASE("Raw: a window that does not fit is refused", "[raw]") {
  BlockFixture f;
  const Image image(f);
  const auto error = [&](const std::string& more) {
    return message(f.graph().add(f.gs(), options(window(more))));
  };
  CHECK(error(",size=1000") == "Specified size is not multiple of 512");
  CHECK(error(",offset=1048577") ==
        "Offset (1048577) cannot be greater than size of the containing file (1048576)");
  CHECK(error(",offset=512,size=1M") ==
        "The sum of offset (512) and size (1048576) has to be smaller or equal to the actual size "
        "of the containing file (1048576)");
  CHECK(error(",offset=512,size=18446744073709551104").starts_with("The sum of offset"));
  CHECK(message(f.graph().add(f.gs(), options("driver=raw,node-name=r0"))) ==
        "A block device must be specified for \"file\"");
  CHECK(f.graph().nodes(f.gs()).size() == 1);
}

TEST_CASE("Raw: resizing passes through, from the offset on, unless the size is given", "[raw]") {
  BlockFixture f;
  const Image image(f);
  Node& node = f.add(window(",offset=4k"));
  CHECK(node.length() == (1 << 20) - 4096);
  REQUIRE(f.graph().resize(f.gs(), node, 2 << 20).has_value());
  CHECK(node.length() == 2 << 20);
  CHECK(std::filesystem::file_size(image.path) == (2 << 20) + 4096);
  CHECK(f.graph().find(f.gs(), "f0")->length() == (2 << 20) + 4096);
  CHECK(message(f.graph().resize(f.gs(), node, INT64_MAX)) ==
        "Disk size too large for the chosen offset");
  REQUIRE(f.graph().del(f.gs(), "r0").has_value());
  Node& fixed = f.add(window(",size=64k"));
  CHECK(message(f.graph().resize(f.gs(), fixed, 4096)) == "Cannot resize fixed-size raw disks");
}

TEST_CASE("Raw: reopening moves the window", "[raw]") {
  BlockFixture f;
  const Image image(f);
  Disk disk(f, f.add(window(",offset=4k,size=4k")));
  const auto reopen = [&](const std::string& more) {
    return message(f.graph().reopen(f.gs(), options(window(more))));
  };
  CHECK(reopen(",offset=8k,size=8k") == "");
  CHECK(disk.node().length() == 8192);
  CHECK(disk.backend().length() == 8192);
  std::vector<std::byte> back(8192);
  REQUIRE(disk.read(0, back).has_value());
  CHECK(std::ranges::equal(back, std::span(image.bytes).subspan(8192, 8192)));
  CHECK_THAT(reopen(",offset=2M"), Contains("cannot be greater than size"));
  CHECK_THAT(message(f.graph().reopen(f.gs(), options("driver=raw,node-name=r0"))),
             Contains("Option 'file' must be given"));
  CHECK(disk.node().length() == 8192);
}

TEST_CASE("Raw: a child with coarse blocks sees whole ones", "[raw]") {
  BlockFixture f;
  const Image image(f, ",cache.direct=on");
  Disk disk(f, f.add(window(",offset=512,size=64k")));
  auto data = pattern(700, 3);
  REQUIRE(disk.write(100, data).has_value());
  CHECK(contents(image.path, 612, 700) == data);
  std::vector<std::byte> back(700);
  REQUIRE(disk.read(100, back).has_value());
  CHECK(back == data);
}

TEST_CASE("Raw: what a writer needs of it, it needs of its child", "[raw]") {
  BlockFixture f;
  const Image image(f);
  Disk disk(f, f.add(window("")));
  Node& file = *f.graph().find(f.gs(), "f0");
  CHECK(contains(file.needs(f.gs()).taken, Perm::kWrite));
  CHECK_FALSE(contains(file.needs(f.gs()).taken, Perm::kResize));
  BlockBackend other(f.graph(), "other", kWriter);
  CHECK_THAT(message(other.insert(f.gs(), file)), Contains("uses node 'f0' as 'file' child"));
}

TEST_CASE("Raw: a window keeps others from resizing what it is on", "[raw]") {
  BlockFixture f;
  const Image image(f);
  f.add(window(",size=64k"));
  Node& file = *f.graph().find(f.gs(), "f0");
  BlockBackend other(f.graph(), "other", {.taken = Perm::kResize, .shared = Perm::kAll});
  CHECK_THAT(message(other.insert(f.gs(), file)), Contains("'resize'"));
  REQUIRE(f.graph().reopen(f.gs(), options(window(""))).has_value());
  CHECK(message(other.insert(f.gs(), file)) == "");
  REQUIRE(other.remove(f.gs()).has_value());
}
