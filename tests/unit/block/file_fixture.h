// What the tests of the drivers share: images in a directory of their own, and requests in a line.
#pragma once

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/support/temp_dir.h"
#include "tests/unit/block/block_fixture.h"
#include "util/fd.h"

namespace rhea::block::test {

inline constexpr Permissions kWriter{.taken = Perm::kConsistentRead | Perm::kWrite,
                                     .shared = Perm::kConsistentRead | Perm::kWriteUnchanged};

/// A file of `size` bytes, all holes.
inline std::string make_image(const std::string& path, uint64_t size) {
  const Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  REQUIRE(fd);
  REQUIRE(::ftruncate(fd.get(), static_cast<off_t>(size)) == 0);
  return path;
}

/// As `read -x`: what is in the file now, past every cache of ours.
inline std::vector<std::byte> contents(const std::string& path, uint64_t offset, size_t size) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  REQUIRE(fd);
  std::vector<std::byte> bytes(size);
  const ssize_t n = ::pread(fd.get(), bytes.data(), size, static_cast<off_t>(offset));
  REQUIRE(n >= 0);
  bytes.resize(static_cast<size_t>(n));
  return bytes;
}

inline void put(const std::string& path, uint64_t offset, std::span<const std::byte> bytes) {
  const Fd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  REQUIRE(fd);
  REQUIRE(::pwrite(fd.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset)) ==
          static_cast<ssize_t>(bytes.size()));
}

inline uint64_t allocated(const std::string& path) {
  struct stat status{};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return static_cast<uint64_t>(status.st_blocks) * 512;
}

inline bool all_zero(std::span<const std::byte> bytes) {
  return std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{0}; });
}

/// A file system of its own in memory.
class MemoryFileSystem {
 public:
  MemoryFileSystem(const char* type, const std::string& mount_options) : path_(dir_.file("fs")) {
    ::mkdir(path_.c_str(), 0700);
    mounted_ = ::mount("none", path_.c_str(), type, 0, mount_options.c_str()) == 0;
  }
  ~MemoryFileSystem() {
    if (mounted_) ::umount2(path_.c_str(), MNT_DETACH);
  }
  MemoryFileSystem(const MemoryFileSystem&) = delete;
  MemoryFileSystem& operator=(const MemoryFileSystem&) = delete;

  /// False without the right to mount.
  explicit operator bool() const { return mounted_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  rhea::test::TempDir dir_;
  std::string path_;
  bool mounted_ = false;
};

/// One of few bytes, to be filled.
struct SmallTmpfs : MemoryFileSystem {
  explicit SmallTmpfs(uint64_t bytes) : MemoryFileSystem("tmpfs", fmt::format("size={}", bytes)) {}
};

/// A node with a backend on it, and requests as one call each. Made in a fixture, gone before it.
class Disk {
 public:
  Disk(BlockFixture& f, Node& node, Permissions permissions = kWriter)
      : f_(f), node_(node), backend_(f.graph(), "disk", permissions) {
    const auto inserted = backend_.insert(f.gs(), node);
    INFO((inserted ? "" : inserted.error().message()));
    REQUIRE(inserted.has_value());
  }
  ~Disk() { CHECK(backend_.remove(f_.gs()).has_value()); }
  Disk(const Disk&) = delete;
  Disk& operator=(const Disk&) = delete;

  Node& node() { return node_; }
  BlockBackend& backend() { return backend_; }
  /// Where requests run; main at first.
  void run_on(AioContext& where) { where_ = &where; }

  Result<void> read(uint64_t offset, std::span<std::byte> bytes) {
    return test::read(f_, backend_, where(), offset, bytes);
  }
  Result<void> write(uint64_t offset, std::span<std::byte> bytes,
                     WriteFlags flags = WriteFlags::kNone) {
    return test::write(f_, backend_, where(), offset, bytes, flags);
  }
  Result<void> zero(uint64_t offset, uint64_t size, WriteFlags flags = WriteFlags::kNone) {
    return run([&](Co& co) { return backend_.co_write_zeroes(co, offset, size, flags); });
  }
  Result<void> discard(uint64_t offset, uint64_t size) {
    return run([&](Co& co) { return backend_.co_discard(co, offset, size); });
  }
  Result<void> flush() {
    return run([&](Co& co) { return backend_.co_flush(co); });
  }
  Result<BlockStatus> status(uint64_t offset, uint64_t size) {
    return run([&](Co& co) -> Result<BlockStatus> {
      GraphReadGuard reading(co);
      return node_.co_status(co, offset, size);
    });
  }

 private:
  AioContext& where() { return where_ != nullptr ? *where_ : f_.main(); }
  template <class F>
  std::invoke_result_t<F&, Co&> run(F&& body) {
    return f_.graph().run_sync(f_.gs(), where(), std::forward<F>(body));
  }

  BlockFixture& f_;
  Node& node_;
  BlockBackend backend_;
  AioContext* where_ = nullptr;
};

/// The error's text; empty if there is none.
template <class T>
std::string message(const Result<T>& result) {
  return result ? std::string() : result.error().message();
}

}  // namespace rhea::block::test
