#include "memory/holes.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/temp_dir.h"
#include "util/check.h"

using namespace rhea;
using namespace rhea::memory;
using rhea::test::TempDir;
using Type = RamBlockConfig::Type;

namespace {

constexpr uint64_t kPages = 2048;
constexpr uint64_t kBytes = kPages * kDirtyPageBytes;

std::shared_ptr<RamBlock> make(Type type, bool share, const std::string& path = "") {
  RamBlockConfig config;
  config.type = type;
  config.name = "pc.ram";
  config.size_bytes = kBytes;
  config.path = path;
  config.share = share;
  return MUST(RamBlock::create(config));
}

void store(const RamBlock& block, uint64_t page) {
  block.host()[page * kDirtyPageBytes + 9] = std::byte{1};
}

/// The pages that are no holes.
std::optional<std::vector<bool>> touched_pages(const RamBlock& block) {
  auto holes = Holes::of(block);
  if (!holes) return {};
  std::vector<bool> touched(kPages);
  for (uint64_t page = 0; page < kPages; ++page) touched[page] = !holes->contains(page);
  return touched;
}

auto count(const std::vector<bool>& pages) { return std::ranges::count(pages, true); }

}  // namespace

TEST_CASE("Holes: private memory is touched where it was stored to", "[memory]") {
  for (const Type type : {Type::kAnonymous, Type::kMemfd}) {
    const auto block = make(type, false);
    auto touched = touched_pages(*block);
    REQUIRE(touched.has_value());
    CHECK(touched->size() == kPages);
    CHECK(count(*touched) == 0);
    store(*block, 1300);
    touched = touched_pages(*block);
    REQUIRE(touched.has_value());
    CHECK(touched->at(1300));
    CHECK(count(*touched) <= 512);  // the huge page around it
  }
}

TEST_CASE("Holes: a shared memfd is touched where anybody has stored to it", "[memory]") {
  const auto block = make(Type::kMemfd, true);
  CHECK(count(touched_pages(*block).value()) == 0);
  store(*block, 0);
  store(*block, kPages - 1);
  REQUIRE(::pwrite(block->fd(), "x", 1, 600 * kDirtyPageBytes) == 1);
  const auto touched = touched_pages(*block).value();
  CHECK(touched[0]);
  CHECK(touched[600]);
  CHECK(touched[kPages - 1]);
  CHECK(count(touched) < static_cast<long>(kPages));
}

TEST_CASE("Holes: one that has been stored to is none after a refresh", "[memory]") {
  for (const auto& [type, share] :
       {std::pair(Type::kAnonymous, false), {Type::kMemfd, false}, {Type::kMemfd, true}}) {
    const auto block = make(type, share);
    auto holes = Holes::of(*block).value();
    CHECK(holes.contains(7));
    store(*block, 7);
    holes.refresh();
    CHECK_FALSE(holes.contains(7));
    CHECK(holes.contains(1500));
  }
}

TEST_CASE("Holes: to ask for them makes none of them anything", "[memory]") {
  const auto block = make(Type::kMemfd, true);
  auto holes = Holes::of(*block).value();
  for (uint64_t page = 0; page < kPages; ++page) REQUIRE(holes.contains(page));
  struct stat file{};
  REQUIRE(::fstat(block->fd(), &file) == 0);
  CHECK(file.st_blocks == 0);
}

TEST_CASE("Holes: what a file held before counts, also for who only has a copy", "[memory]") {
  const Fd file(::memfd_create("old", MFD_CLOEXEC));
  REQUIRE(::ftruncate(file.get(), kBytes) == 0);
  REQUIRE(::pwrite(file.get(), "old", 3, 1000 * kDirtyPageBytes) == 3);
  for (const bool share : {false, true}) {
    const auto block = make(Type::kFile, share, "/proc/self/fd/" + std::to_string(file.get()));
    const auto touched = touched_pages(*block).value();
    CHECK(touched[1000]);
    CHECK(count(touched) <= 512);
  }
}

TEST_CASE("Holes: nothing is said of a file that is not in memory", "[memory]") {
  const TempDir directory;
  struct statfs fs{};
  REQUIRE(::statfs(directory.file("").c_str(), &fs) == 0);
  if (fs.f_type == TMPFS_MAGIC) {
    WARN("SKIP: the folder for temporary files is a tmpfs");
    return;
  }
  CHECK_FALSE(touched_pages(*make(Type::kFile, true, directory.file("ram"))).has_value());
  CHECK_FALSE(touched_pages(*make(Type::kFile, false, directory.file("ram"))).has_value());
}
