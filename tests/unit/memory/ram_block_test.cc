#include "memory/ram_block.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "tests/support/death.h"

using namespace rhea;
using namespace rhea::memory;
using Type = RamBlockConfig::Type;

namespace {

constexpr uint64_t kMiB = 1 << 20;

RamBlockConfig config(Type type, uint64_t size_bytes) {
  RamBlockConfig c;
  c.type = type;
  c.name = "pc.ram";
  c.size_bytes = size_bytes;
  return c;
}

Error error_of(const RamBlockConfig& c) {
  auto block = RamBlock::create(c);
  REQUIRE_FALSE(block.has_value());
  return std::move(block).error();
}

// A directory that goes with the test.
class TemporaryDirectory {
 public:
  TemporaryDirectory() { REQUIRE(::mkdtemp(path_.data()) != nullptr); }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_ = "/tmp/rhea-ram-test-XXXXXX";
};

bool faults(std::byte* address) {
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGSEGV, SIG_DFL);
    *static_cast<volatile std::byte*>(address) = std::byte{1};
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
}

// Whether another mapping of the block's descriptor shows its first byte.
bool visible_through_fd(const RamBlock& block) {
  block.host()[0] = std::byte{0x42};
  std::byte seen{};
  REQUIRE(::pread(block.fd(), &seen, 1, static_cast<off_t>(block.fd_offset())) == 1);
  return seen == std::byte{0x42};
}

}  // namespace

TEST_CASE("RamBlock: anonymous memory is zero, private, and fenced on both sides", "[memory]") {
  auto block = MUST(RamBlock::create(config(Type::kAnonymous, 4 * kMiB)));
  CHECK(block->name() == "pc.ram");
  CHECK(block->size_bytes() == 4 * kMiB);
  CHECK(block->bytes().size() == 4 * kMiB);
  CHECK(block->fd() == -1);
  CHECK(block->page_bytes() == 4096);
  CHECK_FALSE(block->shared());
  CHECK(block->host()[4 * kMiB - 1] == std::byte{0});
  // Huge pages of the host can back it only from their own boundary on.
  CHECK(reinterpret_cast<uintptr_t>(block->host()) % (2 * kMiB) == 0);
  block->host()[0] = std::byte{1};
  CHECK(faults(block->host() - 1));
  CHECK(faults(block->host() + block->size_bytes()));
}

TEST_CASE("RamBlock: a shared memfd shows stores to others, a private one does not", "[memory]") {
  auto c = config(Type::kMemfd, kMiB);
  c.share = true;
  auto shared = MUST(RamBlock::create(c));
  CHECK(shared->shared());
  CHECK(visible_through_fd(*shared));
  c.share = false;
  CHECK_FALSE(visible_through_fd(*MUST(RamBlock::create(c))));
}

TEST_CASE("RamBlock: a directory gives an unlinked file, a path gives that file", "[memory]") {
  const TemporaryDirectory directory;
  auto c = config(Type::kFile, kMiB);
  c.path = directory.path();
  c.share = true;
  auto unlinked = MUST(RamBlock::create(c));
  CHECK(visible_through_fd(*unlinked));
  CHECK(std::filesystem::is_empty(directory.path()));

  c.path = directory.path() + "/ram";
  MUST(RamBlock::create(c))->host()[7] = std::byte{9};
  CHECK(std::filesystem::file_size(c.path) == kMiB);
  // It is the guest's data: the next start finds it.
  CHECK(MUST(RamBlock::create(c))->host()[7] == std::byte{9});
  c.size_bytes = 2 * kMiB;
  CHECK(error_of(c).message() ==
        "RAM 'pc.ram': '" + c.path + "' has 1048576 bytes, the RAM needs 2097152");
  CHECK(std::filesystem::file_size(c.path) == kMiB);
}

TEST_CASE("RamBlock: preallocated memory is there when create returns", "[memory]") {
  for (const Type type : {Type::kAnonymous, Type::kMemfd}) {
    auto c = config(type, 4 * kMiB);
    c.prealloc = true;
    auto block = MUST(RamBlock::create(c));
    std::array<unsigned char, 4 * kMiB / 4096> resident{};
    REQUIRE(::mincore(block->host(), block->size_bytes(), resident.data()) == 0);
    CHECK(std::ranges::all_of(resident, [](unsigned char r) { return (r & 1) != 0; }));
  }
}

TEST_CASE("RamBlock: preallocating more than the host has is an error, not a death", "[memory]") {
  auto c = config(Type::kAnonymous, uint64_t{1} << 44);
  c.prealloc = true;
  const Error error = error_of(c);
  CHECK(error.kind() == ErrorKind::kResource);
  INFO(error.message());
  CHECK(error.message().find("16777216 MiB") != std::string::npos);
}

TEST_CASE("RamBlock: huge pages the host does not have are an error", "[memory]") {
  auto c = config(Type::kMemfd, uint64_t{1} << 40);
  c.hugetlb = true;
  const Error error = error_of(c);
  INFO(error.message());
  const bool expected =
      error.kind() == ErrorKind::kResource || error.kind() == ErrorKind::kUnsupported;
  CHECK(expected);
}

TEST_CASE("RamBlock: a bad configuration is refused with its reason", "[memory]") {
  CHECK(error_of(config(Type::kAnonymous, 0)).message() == "RAM 'pc.ram': RAM size must not be 0");
  CHECK(error_of(config(Type::kAnonymous, 5000)).message() ==
        "RAM 'pc.ram': RAM size 5000 is not a multiple of 4096");
  CHECK(error_of(config(Type::kAnonymous, uint64_t{1} << 60)).kind() ==
        ErrorKind::kInvalidArgument);
  CHECK(error_of(config(Type::kFile, 4096)).message() ==
        "RAM 'pc.ram': file-backed RAM needs a path");
  auto c = config(Type::kAnonymous, 4096);
  c.path = "/tmp";
  CHECK(error_of(c).kind() == ErrorKind::kInvalidArgument);
  c = config(Type::kAnonymous, 4096);
  c.share = true;
  CHECK(error_of(c).kind() == ErrorKind::kInvalidArgument);
  c = config(Type::kAnonymous, 4096);
  c.hugetlb = true;
  CHECK(error_of(c).kind() == ErrorKind::kInvalidArgument);
  c = config(Type::kMemfd, 2 * kMiB);
  c.hugetlb = true;
  c.hugetlb_size_bytes = 3 * kMiB;
  CHECK(error_of(c).message() == "RAM 'pc.ram': 3145728 is not the size of a huge page");
  c.hugetlb = false;
  CHECK(error_of(c).kind() == ErrorKind::kInvalidArgument);
  c = config(Type::kFile, 4096);
  c.path = "/nowhere/ram";
  CHECK(error_of(c).kind() == ErrorKind::kNotFound);
  c.path = "/dev/null";
  CHECK(error_of(c).message() == "RAM 'pc.ram': '/dev/null' is neither a file nor a directory");
}
