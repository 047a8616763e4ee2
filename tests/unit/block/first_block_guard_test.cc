#include "block/drivers/first_block_guard.h"

#include <catch2/catch.hpp>

#include "tests/unit/block/block_fixture.h"

using namespace rhea;
using namespace rhea::block;
using namespace rhea::block::test;

namespace {

constexpr std::string_view kQcow2 = "QFI\xfb";

std::vector<std::byte> block_with(std::string_view magic, size_t offset, size_t size = 512) {
  std::vector<std::byte> bytes(size);
  std::memcpy(bytes.data() + offset, magic.data(), magic.size());
  return bytes;
}

std::vector<std::byte> bytes_of(std::string_view text) { return block_with(text, 0, text.size()); }

}  // namespace

TEST_CASE("recognise_format: headers are known where they stand, and nowhere else", "[guard]") {
  CHECK(recognise_format(block_with(kQcow2, 0)) == "qcow2");
  CHECK(recognise_format(block_with("vhdxfile", 0)) == "vhdx");
  CHECK(recognise_format(block_with("\x7f\x10\xda\xbe", 64)) == "vdi");
  CHECK(recognise_format(block_with(kQcow2, 1)).empty());
  CHECK(recognise_format(bytes_of("QFI")).empty());
  CHECK(recognise_format({}).empty());
}

TEST_CASE("FirstBlockGuard: a write that would make another format is refused", "[guard]") {
  BlockFixture f;
  Node& node = f.add(
      "driver=first-block-guard,node-name=g,file.driver=null-co,file.read-zeroes=on,"
      "file.size=64k");
  BlockBackend backend(
      f.graph(), "vd0",
      {.taken = Perm::kConsistentRead | Perm::kWrite, .shared = Perm::kConsistentRead});
  REQUIRE(backend.insert(f.gs(), node).has_value());
  auto header = block_with(kQcow2, 0, 4096);
  const auto refused = write(f, backend, f.main(), 0, header);
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().kind() == ErrorKind::kPermission);
  CHECK(write(f, backend, f.main(), 512, header).has_value());
  auto plain = pattern(4096, 1);
  CHECK(write(f, backend, f.main(), 0, plain).has_value());
  // In parts it is looked at with what is there: zeros, as this disk forgets.
  auto magic = bytes_of(kQcow2);
  CHECK_FALSE(write(f, backend, f.main(), 0, magic).has_value());
  CHECK(write(f, backend, f.main(), 1, magic).has_value());
  CHECK(read(f, backend, f.main(), 0, plain).has_value());
  CHECK(node.length() == 65536);
  REQUIRE(backend.remove(f.gs()).has_value());
}

TEST_CASE("FirstBlockGuard: an image shorter than a block is guarded as well", "[guard]") {
  BlockFixture f;
  Node& node = f.add(
      "driver=first-block-guard,node-name=g,file.driver=null-co,file.read-zeroes=on,file.size=8");
  BlockBackend backend(
      f.graph(), "vd0",
      {.taken = Perm::kConsistentRead | Perm::kWrite, .shared = Perm::kConsistentRead});
  REQUIRE(backend.insert(f.gs(), node).has_value());
  auto magic = bytes_of(kQcow2);
  CHECK_FALSE(write(f, backend, f.main(), 0, magic).has_value());
  CHECK(write(f, backend, f.main(), 4, magic).has_value());
  REQUIRE(backend.remove(f.gs()).has_value());
}
