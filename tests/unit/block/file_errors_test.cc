// The file driver where the host fails: errors of the disk, lost writes, a refused io_uring, and
// block devices.
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <catch2/catch.hpp>
#include <cstddef>

#include "block/drivers/file.h"
#include "tests/support/child.h"
#include "tests/unit/block/file_fixture.h"

using namespace rhea;
using namespace rhea::block;
using namespace rhea::block::test;
using Catch::Contains;

namespace {

/// The descriptor by which this process has `path` open.
int descriptor_of(const std::string& path) {
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code ignored;
    if (std::filesystem::read_symlink(entry.path(), ignored) == path) {
      return std::stoi(entry.path().filename());
    }
  }
  FAIL("nobody has it open: " << path);
  return -1;
}

/// Puts another file in the place of the driver's, which then sees that file's errors.
class Impostor {
 public:
  Impostor(const std::string& path, int other) : fd_(descriptor_of(path)) {
    saved_ = Fd(::fcntl(fd_, F_DUPFD_CLOEXEC, 0));
    REQUIRE(saved_);
    REQUIRE(::dup3(other, fd_, O_CLOEXEC) == fd_);
  }
  ~Impostor() { CHECK(::dup3(saved_.get(), fd_, O_CLOEXEC) == fd_); }
  Impostor(const Impostor&) = delete;
  Impostor& operator=(const Impostor&) = delete;

 private:
  const int fd_;
  Fd saved_;
};

std::string threads_node(const std::string& path, const std::string& more = {}) {
  return "driver=file,node-name=f0,aio=threads,filename=" + path + more;
}

/// A block device on a file.
class LoopDevice {
 public:
  enum class Access : uint8_t { kReadWrite, kReadOnly };

  LoopDevice(const std::string& path, Access access) {
    const Fd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    const Fd image(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    const int number = control ? ::ioctl(control.get(), LOOP_CTL_GET_FREE) : -1;
    if (number < 0) return;
    path_ = "/dev/loop" + std::to_string(number);
    Fd device(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
    loop_config config{};
    config.fd = static_cast<uint32_t>(image.get());
    config.info.lo_flags = access == Access::kReadOnly ? uint32_t{LO_FLAGS_READ_ONLY} : 0;
    if (device && ::ioctl(device.get(), LOOP_CONFIGURE, &config) == 0) device_ = std::move(device);
  }
  ~LoopDevice() {
    if (device_) ::ioctl(device_.get(), LOOP_CLR_FD, 0);
  }
  LoopDevice(const LoopDevice&) = delete;
  LoopDevice& operator=(const LoopDevice&) = delete;

  /// False without the right to make one, or without loop devices.
  explicit operator bool() const { return static_cast<bool>(device_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  Fd device_;
};

/// From here on this process is refused io_uring.
void refuse_io_uring() {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{.len = std::size(filter), .filter = filter};
  REQUIRE(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  REQUIRE(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

}  // namespace

TEST_CASE("File: an error of the disk is told with its kind, its errno and the place", "[file]") {
  rhea::test::TempDir dir;
  BlockFixture f;
  const std::string path = make_image(dir.file("image"), 65536);
  Disk disk(f, f.add(threads_node(path)));
  auto bytes = pattern(4096, 1);
  {
    // Address 0 of a process's memory can not be read: EIO.
    const Fd memory(::open("/proc/self/mem", O_RDONLY | O_CLOEXEC));
    const Impostor impostor(path, memory.get());
    const auto read = disk.read(0, bytes);
    REQUIRE_FALSE(read.has_value());
    CHECK(read.error().kind() == ErrorKind::kIo);
    CHECK(read.error().os_errno() == EIO);
    CHECK(message(read) == "read of 4096 bytes at 0 of '" + path + "': Input/output error");
  }
  {
    const Fd full(::open("/dev/full", O_RDWR | O_CLOEXEC));
    const Impostor impostor(path, full.get());
    CHECK(disk.write(0, bytes).error().kind() == ErrorKind::kNoSpace);
    CHECK_FALSE(disk.status(0, 4096)->zero);  // nothing is known
  }
  CHECK(disk.write(0, bytes).has_value());
}

TEST_CASE("File: after a failed flush all fail, until the node is reopened", "[file]") {
  rhea::test::TempDir dir;
  BlockFixture f;
  const std::string path = make_image(dir.file("image"), 65536);
  Disk disk(f, f.add(threads_node(path)));
  auto bytes = pattern(4096, 1);
  // Opened so that a pipe can be refused; io_uring would not wait for the disk then.
  CHECK((::fcntl(descriptor_of(path), F_GETFL) & O_NONBLOCK) == 0);
  CHECK(disk.flush().has_value());
  {
    Pipe pipe = MUST(make_pipe());
    const Impostor impostor(path, pipe.write.get());  // has nothing to sync: EINVAL
    CHECK(disk.flush().error().os_errno() == EINVAL);
  }
  // The host would say yes now, and knows nothing of what was lost.
  CHECK(disk.write(0, bytes).has_value());
  CHECK(message(disk.flush()) ==
        "flush of '" + path + "' (writes may be lost; reopen to go on): Invalid argument");
  REQUIRE(f.graph().reopen(f.gs(), options(threads_node(path))).has_value());
  CHECK(disk.flush().has_value());
}

TEST_CASE("File: a failed forced write counts as a failed flush", "[file]") {
  rhea::test::TempDir dir;
  BlockFixture f;
  const std::string path = make_image(dir.file("image"), 65536);
  Disk disk(f, f.add(threads_node(path)));
  auto bytes = pattern(4096, 1);
  {
    Pipe pipe = MUST(make_pipe());
    const Impostor impostor(path, pipe.write.get());
    CHECK_FALSE(disk.write(0, bytes, WriteFlags::kForceUnitAccess).has_value());
  }
  CHECK_FALSE(disk.flush().has_value());
}

TEST_CASE("File: flushes that come together share the one that follows", "[file]") {
  rhea::test::TempDir dir;
  BlockFixture f;
  IoRing* ring = f.main().io_ring();
  if (ring == nullptr) {
    WARN("SKIP: no io_uring here, whose requests could be counted");
    return;
  }
  const std::string path = make_image(dir.file("image"), 65536);
  Disk disk(f, f.add("driver=file,node-name=f0,filename=" + path));
  const uint64_t before = ring->counters().requests;
  int done = 0;
  for (int i = 0; i < 40; ++i) {
    MUST(spawn(f.main(), [&](Co& co) {
      if (disk.backend().co_flush(co)) ++done;
    }));
  }
  f.wait_until([&] { return done == 40; });
  // The first may have begun before the others came; one that began afterwards serves them all.
  CHECK(ring->counters().requests - before == 2);
}

TEST_CASE("File: flushes of several threads all come back", "[file]") {
  rhea::test::TempDir dir;
  BlockFixture f;
  AioContext& thread = f.add_thread();
  const std::string path = make_image(dir.file("image"), 65536);
  Disk disk(f, f.add("driver=file,node-name=f0,filename=" + path));
  std::atomic<int> done = 0, failed = 0;
  constexpr int kFlushes = 40;
  for (int i = 0; i < kFlushes; ++i) {
    MUST(spawn(i % 2 == 0 ? f.main() : thread, [&](Co& co) {
      if (!disk.backend().co_flush(co)) ++failed;
      MainWait& waiter = f.loop().waiter();
      ++done;
      waiter.kick();
    }));
  }
  f.wait_until([&] { return done == kFlushes; });
  CHECK(failed == 0);
}

TEST_CASE("File: threads that used an image end before it, and others take their place", "[file]") {
  rhea::test::TempDir dir;
  BlockFixture f;
  const std::string path = make_image(dir.file("image"), 65536);
  auto bytes = pattern(4096, 1);
  {
    Disk disk(f, f.add("driver=file,node-name=f0,filename=" + path));
    for (int i = 0; i < 3; ++i) {
      disk.run_on(f.add_thread());
      REQUIRE(disk.write(0, bytes).has_value());
      f.remove_thread();
    }
    disk.run_on(f.add_thread());
    REQUIRE(disk.read(0, bytes).has_value());
  }
  REQUIRE(f.graph().del(f.gs(), "f0").has_value());
  CHECK(contents(path, 0, 4096) == bytes);
}

TEST_CASE("File: discards and zeroes that the host can not do are advice, or written", "[file]") {
  const MemoryFileSystem ramfs("ramfs", "");  // has no fallocate
  if (!ramfs) {
    WARN("SKIP: a ramfs can not be mounted here");
    return;
  }
  for (const std::string transport : {"threads", "io_uring"}) {
    BlockFixture f;
    if (transport == "io_uring" && f.main().io_ring() == nullptr) continue;
    const std::string path = make_image(ramfs.file("image"), 65536);
    put(path, 0, pattern(65536, 1));
    Disk disk(
        f, f.add("driver=file,node-name=f0,discard=unmap,filename=" + path + ",aio=" + transport));
    for (int twice = 0; twice < 2; ++twice) {  // it has heard no, and has it in mind
      CHECK(disk.discard(0, 4096).has_value());
      CHECK_FALSE(all_zero(contents(path, 8192, 4096)));
      const auto zeroed = disk.zero(4096, 4096, WriteFlags::kNoFallback);
      CHECK(zeroed.error().kind() == ErrorKind::kUnsupported);
    }
    CHECK_FALSE(all_zero(contents(path, 4096, 4096)));
    CHECK(disk.zero(4096, 4096, WriteFlags::kMayUnmap).has_value());
    CHECK(all_zero(contents(path, 4096, 4096)));
  }
}

TEST_CASE("helper: opens images without io_uring", "[.helper]") {
  refuse_io_uring();
  rhea::test::TempDir dir;
  BlockFixture f;
  const std::string path = make_image(dir.file("image"), 65536);
  CHECK(message(f.graph().add(f.gs(),
                              options("driver=file,node-name=f0,aio=io_uring,filename=" + path)))
            .starts_with("aio=io_uring was specified, but is not available: "));
  Disk disk(f, f.add("driver=file,node-name=f0,filename=" + path));
  auto bytes = pattern(4096, 1);
  CHECK(disk.write(0, bytes).has_value());
  CHECK(disk.flush().has_value());
  CHECK(contents(path, 0, 4096) == bytes);
}

TEST_CASE("File: without io_uring threads do, unless it was asked for by name", "[file]") {
  const auto result = rhea::test::run_hidden_test("helper: opens images without io_uring",
                                                  std::chrono::seconds(120));
  INFO(result.output);
  CHECK(result.passed());
}

TEST_CASE("HostDevice: what is no block device is refused", "[file]") {
  rhea::test::TempDir dir;
  BlockFixture f;
  for (const std::string& path : {make_image(dir.file("image"), 65536), std::string("/dev/null")}) {
    const auto added =
        f.graph().add(f.gs(), options("driver=host_device,node-name=f0,filename=" + path));
    CHECK(message(added) == "'host_device' driver requires '" + path + "' to be a block device");
  }
  CHECK(message(f.graph().add(
            f.gs(), options("driver=host_device,node-name=f0,filename=" + dir.file("none")))) ==
        "Could not open '" + dir.file("none") + "': No such file or directory");
}

TEST_CASE("HostDevice: a block device is read and written under that name", "[file]") {
  rhea::test::TempDir dir;
  BlockFixture f;
  const std::string image = make_image(dir.file("image"), 1 << 20);
  const LoopDevice device(image, LoopDevice::Access::kReadWrite);
  if (!device) {
    WARN("SKIP: may not make a loop device");
    return;
  }
  Disk disk(f, f.add("driver=host_device,node-name=f0,filename=" + device.path()));
  CHECK(disk.node().driver().name() == "host_device");
  CHECK(disk.node().length() == 1 << 20);
  auto bytes = pattern(4096, 2), back = bytes;
  REQUIRE(disk.write(8192, bytes, WriteFlags::kForceUnitAccess).has_value());
  std::ranges::fill(back, std::byte{0});
  REQUIRE(disk.read(8192, back).has_value());
  CHECK(back == bytes);
}

TEST_CASE("File: a block device is found out, and can not be resized", "[file]") {
  rhea::test::TempDir dir;
  BlockFixture f;
  const std::string image = make_image(dir.file("image"), 1 << 20);
  put(image, 0, pattern(1 << 20, 1));
  const LoopDevice device(image, LoopDevice::Access::kReadWrite);
  if (!device) {
    WARN("SKIP: a loop device can not be made here");
    return;
  }
  for (const std::string more : {"", ",cache.direct=on", ",aio=threads"}) {
    Disk disk(f, f.add("driver=file,node-name=f0,discard=unmap,filename=" + device.path() + more));
    CHECK(disk.node().length() == 1 << 20);
    auto bytes = pattern(5000, 2), back = bytes;
    REQUIRE(disk.write(1000, bytes, WriteFlags::kForceUnitAccess).has_value());
    std::ranges::fill(back, std::byte{0});
    REQUIRE(disk.read(1000, back).has_value());
    CHECK(back == bytes);
    for (const WriteFlags flags : {WriteFlags::kNone, WriteFlags::kMayUnmap}) {
      REQUIRE(disk.write(65536, bytes).has_value());
      REQUIRE(disk.zero(65536, 5000, flags).has_value());
      REQUIRE(disk.read(65536, back).has_value());
      CHECK(all_zero(back));
    }
    CHECK(disk.discard(1 << 19, 1 << 18).has_value());
    CHECK(disk.flush().has_value());
    CHECK(disk.status(0, 1 << 20)->data);
    CHECK(message(f.graph().resize(f.gs(), disk.node(), 4096)) == "Cannot resize device files");
    CHECK(disk.node().length() == 1 << 20);
    REQUIRE(disk.backend().remove(f.gs()).has_value());
    REQUIRE(f.graph().del(f.gs(), "f0").has_value());
  }
}

TEST_CASE("File: a read-only block device is refused, or opened so under auto-read-only",
          "[file]") {
  rhea::test::TempDir dir;
  BlockFixture f;
  const LoopDevice device(make_image(dir.file("image"), 1 << 20), LoopDevice::Access::kReadOnly);
  if (!device) {
    WARN("SKIP: a loop device can not be made here");
    return;
  }
  const std::string text = "driver=file,node-name=f0,filename=" + device.path();
  const auto refused = f.graph().add(f.gs(), options(text));
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().kind() == ErrorKind::kPermission);
  CHECK_THAT(message(refused), Contains("Could not open '" + device.path() + "': "));
  CHECK(f.add(text + ",auto-read-only=on").read_only());
}
