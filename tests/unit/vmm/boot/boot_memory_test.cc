#include "vmm/boot/boot_memory.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <string>

#include "tests/unit/vmm/boot/boot_support.h"

using namespace rhea;
using namespace rhea::vmm;
using namespace rhea::vmm::test;

namespace {

/// A directory that goes with its contents (files only).
class TempDir {
 public:
  TempDir() { REQUIRE(::mkdtemp(path_.data()) != nullptr); }
  ~TempDir() {
    for (const auto& file : files_) ::unlink(file.c_str());
    ::rmdir(path_.c_str());
  }
  std::string file(const std::string& name) { return files_.emplace_back(path_ + "/" + name); }
  std::string file(const std::string& name, const Bytes& content) {
    const std::string path = file(name);
    const Fd fd(::open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    MUST(write_all(fd.get(), content));
    return path;
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_ = "/tmp/rhea-boot-XXXXXX";
  std::vector<std::string> files_;
};

std::string open_error(const std::string& path) {
  const auto source = FileSource::open("kernel", path);
  return source ? "" : source.error().message();
}

}  // namespace

TEST_CASE("FileSource: what is not a readable, regular, non-empty file is refused", "[boot]") {
  TempDir dir;
  const std::string absent = dir.path() + "/absent";
  CHECK(open_error(absent) ==
        "could not open kernel file '" + absent + "': No such file or directory");
  CHECK(open_error(dir.path()) == "kernel file '" + dir.path() + "' is a directory");
  CHECK(open_error("/dev/null") == "kernel file '/dev/null' is not a regular file");
  const std::string empty = dir.file("empty", {});
  CHECK(open_error(empty) == "kernel file '" + empty + "' is empty");
  const std::string fifo = dir.file("fifo");
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  CHECK(open_error(fifo) == "kernel file '" + fifo + "' is not a regular file");
}

TEST_CASE("FileSource: a read beyond the end is an error, not a short read", "[boot]") {
  TempDir dir;
  const auto source = MUST(FileSource::open("kernel", dir.file("k", pattern(100, 1))));
  Bytes bytes(50);
  REQUIRE(source->read(50, bytes).has_value());
  CHECK(bytes[0] == pattern(100, 1)[50]);
  CHECK(source->read(51, bytes).error().kind() == ErrorKind::kCorrupt);
  CHECK(source->read(UINT64_MAX, bytes).error().kind() == ErrorKind::kCorrupt);
}

TEST_CASE("FileSource: a file that shrinks while it is loaded is an error", "[boot]") {
  TempDir dir;
  const std::string path = dir.file("k", make_bzimage());
  const auto files = MUST(KernelFiles::open(path, std::nullopt));
  REQUIRE(::truncate(path.c_str(), 4096) == 0);
  const auto layout = MUST(MemoryLayout::create(64 * kMiB, 46));
  FakeMemory ram(64 * kMiB);
  const auto state = load_kernel(ram, {files.kernel(), nullptr, "", layout, {}});
  REQUIRE_FALSE(state.has_value());
  CHECK(state.error().message() == "kernel file '" + path + "': truncated while it was read");
}

TEST_CASE("KernelFiles: the file at fault is named", "[boot]") {
  TempDir dir;
  const std::string kernel = dir.file("k", make_bzimage());
  const auto failed = KernelFiles::open(kernel, dir.path() + "/absent");
  REQUIRE_FALSE(failed.has_value());
  CHECK(failed.error().message() ==
        "could not open initrd file '" + dir.path() + "/absent': No such file or directory");
  const auto both = MUST(KernelFiles::open(kernel, dir.file("i", pattern(5000, 2))));
  REQUIRE(both.initrd() != nullptr);
  CHECK(both.initrd()->size_bytes() == 5000);
}

TEST_CASE("BootMemory: copies and zeroes of several chunks leave no gap", "[boot]") {
  constexpr size_t kSize = (512 << 10) + 4099;
  FakeMemory ram(4 * kMiB);
  const FakeSource source("s", pattern(kSize + 10, 5));
  REQUIRE(ram.copy(memory::GuestAddr{0x10'0003}, source, 10, kSize).has_value());
  const Bytes all = pattern(kSize + 10, 5);
  CHECK(ram.read(0x10'0003, kSize) == Bytes(all.begin() + 10, all.end()));
  CHECK(ram.get<uint8_t>(0x10'0002) == 0xa5);
  CHECK(ram.get<uint8_t>(0x10'0003 + kSize) == 0xa5);
  REQUIRE(ram.zero(memory::GuestAddr{0x10'0003}, kSize).has_value());
  CHECK(ram.read(0x10'0003, kSize) == Bytes(kSize));
  CHECK(ram.get<uint8_t>(0x10'0003 + kSize) == 0xa5);
}

TEST_CASE("BootMemory: nothing is written beyond RAM", "[boot]") {
  FakeMemory ram(kMiB);
  CHECK_FALSE(ram.zero(memory::GuestAddr{kMiB - 1}, 2).has_value());
  CHECK(ram.zero(memory::GuestAddr{kMiB}, 0).has_value());
}
