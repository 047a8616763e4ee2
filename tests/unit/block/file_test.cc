#include "block/drivers/file.h"

#include <sys/resource.h>
#include <sys/sysmacros.h>

#include <catch2/catch.hpp>
#include <csignal>

#include "tests/unit/block/file_fixture.h"

using namespace rhea;
using namespace rhea::block;
using namespace rhea::block::test;
using Catch::Contains;

namespace {

std::string file_node(const std::string& path, const std::string& more = {}) {
  return "driver=file,node-name=f0,filename=" + path + more;
}

/// This host refuses io_uring.
bool no_ring(BlockFixture& f, const std::string& more) {
  if (more.find("io_uring") == more.npos || f.main().io_ring() != nullptr) return false;
  WARN("SKIP: threads alone: no io_uring here: " << f.main().io_ring_refusal());
  return true;
}

/// Runs `body(fixture, option)` for every way of making requests that this host has.
template <class F>
void on_each_transport(F&& body) {
  for (const std::string transport : {",aio=io_uring", ",aio=threads"}) {
    BlockFixture f;
    INFO(transport);
    if (!no_ring(f, transport)) body(f, transport);
  }
}

std::string open_error(BlockFixture& f, const std::string& text) {
  return message(f.graph().add(f.gs(), options(text)));
}

}  // namespace

TEST_CASE("File: what is written is in the file, and is read back, on main and iothreads",
          "[file]") {
  rhea::test::TempDir dir;
  on_each_transport([&](BlockFixture& f, const std::string& transport) {
    AioContext& thread = f.add_thread();
    const std::string path = make_image(dir.file("image"), 1 << 20);
    Disk disk(f, f.add(file_node(path, transport)));
    unsigned seed = 1;
    for (AioContext* where : {&f.main(), &thread}) {
      disk.run_on(*where);
      auto bytes = pattern(70'000, seed++);
      REQUIRE(disk.write(513, bytes).has_value());
      CHECK(contents(path, 513, bytes.size()) == bytes);
      std::vector<std::byte> back(bytes.size());
      REQUIRE(disk.read(513, back).has_value());
      CHECK(back == bytes);
      REQUIRE(disk.flush().has_value());
      REQUIRE(disk.write(4096, bytes, WriteFlags::kForceUnitAccess).has_value());
      CHECK(contents(path, 4096, bytes.size()) == bytes);
    }
  });
}

TEST_CASE("File: requests in many pieces keep their order", "[file]") {
  rhea::test::TempDir dir;
  on_each_transport([&](BlockFixture& f, const std::string& transport) {
    const std::string path = make_image(dir.file("image"), 1 << 20);
    Disk disk(f, f.add(file_node(path, transport)));
    auto bytes = pattern(3000 * 16, 3);
    std::vector<iovec> pieces;
    for (size_t i = 0; i < 3000; ++i) {
      pieces.push_back({.iov_base = bytes.data() + i * 16, .iov_len = 16});
    }
    REQUIRE(f.graph()
                .run_sync(
                    f.gs(), f.main(),
                    [&](Co& co) { return disk.backend().co_write(co, 100, IoVector::of(pieces)); })
                .has_value());
    CHECK(contents(path, 100, bytes.size()) == bytes);
  });
}

TEST_CASE("File: what can not be opened is refused with the reason", "[file]") {
  rhea::test::TempDir dir;
  BlockFixture f;
  CHECK(open_error(f, file_node("/nope")) == "Could not open '/nope': No such file or directory");
  const std::string here = dir.file(".");
  CHECK(open_error(f, file_node(here)) == "Could not open '" + here + "': Is a directory");
  CHECK(open_error(f, file_node(here, ",read-only=on")) ==
        "'file' driver requires '" + here + "' to be a regular file or a block device");
  CHECK_THAT(open_error(f, file_node("/dev/null")), Contains("to be a regular file or a block"));
  const std::string fifo = dir.file("fifo");
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  CHECK_THAT(open_error(f, file_node(fifo, ",read-only=on")), Contains("to be a regular file"));
  CHECK(open_error(f, "driver=file,node-name=f0") == "Parameter 'filename' is missing");
  const std::string image = make_image(dir.file("image"), 512);
  CHECK(open_error(f, file_node(image, ",aio=native")) ==
        "Parameter 'aio' does not accept value 'native'");
  CHECK(open_error(f, file_node(image, ",locking=maybe")) ==
        "Parameter 'locking' does not accept value 'maybe'");
  CHECK(open_error(f, file_node(image, ",force-share=on")) ==
        "force-share=on can only be used with read-only images");
  CHECK(f.graph().nodes(f.gs()).empty());
}

TEST_CASE("File: drop-cache is taken and ignored", "[file]") {
  rhea::test::TempDir dir;
  BlockFixture f;
  const std::string image = make_image(dir.file("image"), 512);
  CHECK(f.add(file_node(image, ",drop-cache=off,locking=off")).length() == 512);
}

TEST_CASE("File: a length that is no multiple of a sector is rounded up; the rest reads as zeros",
          "[file]") {
  rhea::test::TempDir dir;
  on_each_transport([&](BlockFixture& f, const std::string& transport) {
    const std::string path = make_image(dir.file("image"), 1000);
    const auto data = pattern(1000, 9);
    put(path, 0, data);
    Disk disk(f, f.add(file_node(path, transport)));
    CHECK(disk.node().length() == 1024);
    std::vector<std::byte> back(1024, std::byte{0xff});
    REQUIRE(disk.read(0, back).has_value());
    CHECK(std::ranges::equal(std::span(back).first(1000), data));
    CHECK(all_zero(std::span(back).subspan(1000)));
    auto sector = pattern(512, 4);
    REQUIRE(disk.write(512, sector).has_value());
    CHECK(std::filesystem::file_size(path) == 1024);
    CHECK(contents(path, 512, 512) == sector);
  });
}

TEST_CASE("File: reads of a file that was cut behind the driver are zeros, writes extend it",
          "[file]") {
  rhea::test::TempDir dir;
  on_each_transport([&](BlockFixture& f, const std::string& transport) {
    const std::string path = make_image(dir.file("image"), 65536);
    auto bytes = pattern(65536, 5);
    put(path, 0, bytes);
    Disk disk(f, f.add(file_node(path, transport)));
    REQUIRE(::truncate(path.c_str(), 5000) == 0);
    std::vector<std::byte> back(65536, std::byte{0xff});
    REQUIRE(disk.read(0, back).has_value());
    CHECK(std::ranges::equal(std::span(back).first(5000), std::span(bytes).first(5000)));
    CHECK(all_zero(std::span(back).subspan(5000)));
    REQUIRE(disk.write(60'000, std::span(bytes).first(100)).has_value());
    CHECK(std::filesystem::file_size(path) == 60'100);
  });
}

TEST_CASE("File: direct I/O finds its alignment, and takes requests of any", "[file]") {
  rhea::test::TempDir dir;
  on_each_transport([&](BlockFixture& f, const std::string& transport) {
    const std::string path = make_image(dir.file("image"), 1 << 20);
    auto bytes = pattern(70'001, 6);
    put(path, 0, bytes);
    Disk disk(f, f.add(file_node(path, ",cache.direct=on" + transport)));
    CHECK(disk.node().limits().request_alignment >= 512);
    std::vector<std::byte> back(bytes.size());
    REQUIRE(disk.read(0, back).has_value());
    CHECK(back == bytes);
    auto odd = pattern(3333, 7);
    REQUIRE(disk.write(10'001, odd).has_value());
    std::ranges::copy(odd, bytes.begin() + 10'001);
    CHECK(contents(path, 0, bytes.size()) == bytes);
    // Cut in the middle of a block: the kernel gives what there is and can not go on from there.
    REQUIRE(::truncate(path.c_str(), 10'100) == 0);
    std::vector<std::byte> rest(1 << 16, std::byte{0xff});
    REQUIRE(disk.read(0, rest).has_value());
    CHECK(std::ranges::equal(std::span(rest).first(10'100), std::span(bytes).first(10'100)));
    CHECK(all_zero(std::span(rest).subspan(10'100)));
  });
}

TEST_CASE("File: discard gives space back only when asked to", "[file]") {
  rhea::test::TempDir dir;
  for (const bool unmap : {false, true}) {
    on_each_transport([&](BlockFixture& f, const std::string& transport) {
      const std::string path = make_image(dir.file("image"), 1 << 20);
      const auto bytes = pattern(1 << 20, 8);
      put(path, 0, bytes);
      Disk disk(f, f.add(file_node(path, transport + (unmap ? ",discard=unmap" : ""))));
      const uint64_t before = allocated(path);
      REQUIRE(disk.discard(1 << 16, 1 << 18).has_value());
      CHECK((allocated(path) < before) == unmap);
      CHECK(all_zero(contents(path, 1 << 16, 1 << 18)) == unmap);
      CHECK(std::filesystem::file_size(path) == 1 << 20);
    });
  }
}

TEST_CASE("File: zeroes are written with and without giving the space back", "[file]") {
  rhea::test::TempDir dir;
  for (const bool unmap : {false, true}) {
    on_each_transport([&](BlockFixture& f, const std::string& transport) {
      const std::string path = make_image(dir.file("image"), 1 << 20);
      put(path, 0, pattern(1 << 20, 8));
      Disk disk(f, f.add(file_node(path, transport + ",discard=unmap")));
      const uint64_t before = allocated(path);
      const auto flags = unmap ? WriteFlags::kMayUnmap : WriteFlags::kNone;
      REQUIRE(disk.zero(4096 + 7, 1 << 18, flags).has_value());
      CHECK((allocated(path) < before) == unmap);
      CHECK(all_zero(contents(path, 4096 + 7, 1 << 18)));
      CHECK_FALSE(all_zero(contents(path, 4096, 7)));
      CHECK(disk.zero(0, 4096, WriteFlags::kNoFallback).has_value());
    });
  }
}

TEST_CASE("File: zeroes on a file system without zero ranges are written and stay allocated",
          "[file]") {
  SmallTmpfs tmpfs(4 << 20);
  if (!tmpfs) {
    WARN("SKIP: a tmpfs can not be mounted here");
    return;
  }
  on_each_transport([&](BlockFixture& f, const std::string& transport) {
    const std::string path = make_image(tmpfs.file("image"), 1 << 20);
    put(path, 0, pattern(1 << 20, 8));
    Disk disk(f, f.add(file_node(path, transport + ",discard=unmap")));
    const uint64_t before = allocated(path);
    REQUIRE(disk.zero(0, 1 << 18).has_value());
    CHECK(all_zero(contents(path, 0, 1 << 18)));
    CHECK(allocated(path) == before);
    REQUIRE(disk.zero(0, 1 << 18, WriteFlags::kMayUnmap).has_value());
    CHECK(allocated(path) < before);
  });
}

TEST_CASE("File: a full file system is told as such, and the request succeeds once there is room",
          "[file]") {
  SmallTmpfs tmpfs(1 << 20);
  if (!tmpfs) {
    WARN("SKIP: a tmpfs can not be mounted here");
    return;
  }
  on_each_transport([&](BlockFixture& f, const std::string& transport) {
    const std::string path = make_image(tmpfs.file("image"), 1 << 20);
    {
      std::ofstream filler(tmpfs.file("filler"));
      filler << std::string(900 << 10, 'x');
    }
    Disk disk(f, f.add(file_node(path, transport)));
    auto bytes = pattern(512 << 10, 2);
    for (const WriteFlags flags : {WriteFlags::kNone, WriteFlags::kForceUnitAccess}) {
      const auto refused = disk.write(0, bytes, flags);
      REQUIRE_FALSE(refused.has_value());
      CHECK(refused.error().kind() == ErrorKind::kNoSpace);
      CHECK(refused.error().os_errno() == ENOSPC);
      CHECK(refused.error().message() ==
            "write of 524288 bytes at 0 of '" + path + "': No space left on device");
    }
    const auto zeroes = disk.zero(512 << 10, 512 << 10);
    CHECK(zeroes.error().kind() == ErrorKind::kNoSpace);
    std::filesystem::remove(tmpfs.file("filler"));
    CHECK(disk.write(0, bytes).has_value());
    CHECK(contents(path, 0, bytes.size()) == bytes);
    CHECK(disk.flush().has_value());  // no write was lost: each told its own failure
    std::filesystem::remove(path);
  });
}

TEST_CASE("File: a write over the process's limit fails with the host's reason", "[file]") {
  rhea::test::TempDir dir;
  BlockFixture f;
  const std::string path = make_image(dir.file("image"), 1 << 20);
  Disk disk(f, f.add(file_node(path, ",aio=threads")));
  REQUIRE(::truncate(path.c_str(), 0) == 0);
  rlimit old{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &old) == 0);
  const rlimit small{.rlim_cur = 4096, .rlim_max = old.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  auto bytes = pattern(8192, 1);
  const auto refused = disk.write(0, bytes);  // half of it fits: short, then refused
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &old) == 0);
  std::signal(SIGXFSZ, handler);
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().os_errno() == EFBIG);
  CHECK(std::filesystem::file_size(path) == 4096);
}

TEST_CASE("File: resizing changes the file and the node", "[file]") {
  rhea::test::TempDir dir;
  BlockFixture f;
  const std::string path = make_image(dir.file("image"), 1 << 20);
  Node& node = f.add(file_node(path));
  REQUIRE(f.graph().resize(f.gs(), node, 2 << 20).has_value());
  CHECK(node.length() == 2 << 20);
  CHECK(std::filesystem::file_size(path) == 2 << 20);
  REQUIRE(f.graph().resize(f.gs(), node, 4096).has_value());
  CHECK(node.length() == 4096);
  CHECK_THAT(message(f.graph().resize(f.gs(), node, UINT64_MAX)), Contains("is too large"));
  CHECK_THAT(message(f.graph().resize(f.gs(), node, INT64_MAX)), Contains("Failed to resize"));
}

TEST_CASE("File: holes and data are told apart", "[file]") {
  rhea::test::TempDir dir;
  BlockFixture f;
  const std::string path = make_image(dir.file("image"), 1 << 20);
  put(path, 1 << 16, pattern(1 << 16, 1));
  Disk disk(f, f.add(file_node(path)));
  const BlockStatus hole = *disk.status(0, 1 << 20);
  CHECK(hole.bytes == 1 << 16);
  CHECK((hole.zero && !hole.data));
  const BlockStatus data = *disk.status(1 << 16, 1 << 19);
  CHECK(data.bytes == 1 << 16);
  CHECK((data.data && !data.zero));
  const BlockStatus end = *disk.status(1 << 17, (1 << 20) - (1 << 17));
  CHECK(end.bytes == (1 << 20) - (1 << 17));
  CHECK((end.zero && !end.data));
}

TEST_CASE("File: what is read-only on the host is refused, or opened so under auto-read-only",
          "[file]") {
  SmallTmpfs tmpfs(1 << 20);
  if (!tmpfs) {
    WARN("SKIP: a tmpfs can not be mounted here");
    return;
  }
  const std::string path = make_image(tmpfs.file("image"), 4096);
  const std::string folder = std::filesystem::path(path).parent_path();
  REQUIRE(::mount("none", folder.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) == 0);
  BlockFixture f;
  CHECK(open_error(f, file_node(path)) == "Could not open '" + path + "': Read-only file system");
  Node& node = f.add(file_node(path, ",auto-read-only=on"));
  CHECK(node.read_only());
  BlockBackend backend(f.graph(), "disk", kWriter);
  CHECK_FALSE(backend.insert(f.gs(), node).has_value());
  Disk reader(f, node, kReader);
  auto bytes = pattern(512, 1);
  CHECK(reader.read(0, bytes).has_value());
  CHECK(reader.write(0, bytes).error().kind() == ErrorKind::kPermission);
}

TEST_CASE("File: reopening changes read-only, cache.direct and aio, and nothing else", "[file]") {
  rhea::test::TempDir dir;
  BlockFixture f;
  const std::string path = make_image(dir.file("image"), 1 << 20);
  Node& node = f.add(file_node(path));
  Disk disk(f, node, kReader);
  const auto reopen = [&](const std::string& more) {
    return message(f.graph().reopen(f.gs(), options(file_node(path, more))));
  };
  CHECK(reopen(",read-only=on") == "");
  CHECK(node.read_only());
  auto bytes = pattern(512, 1);
  CHECK(disk.read(0, bytes).has_value());
  CHECK(reopen(",cache.direct=on,aio=threads") == "");
  CHECK_FALSE(node.read_only());
  CHECK(node.limits().request_alignment >= 512);
  CHECK(disk.read(0, bytes).has_value());
  CHECK(reopen(",locking=off") == "Cannot change the option 'locking'");
  CHECK(message(f.graph().reopen(f.gs(), options(file_node(path + "x")))) ==
        "Cannot change the option 'filename'");
  CHECK(reopen(",bogus=1") == "Block format 'file' does not support the option 'bogus'");
  std::filesystem::rename(path, path + ".old");
  make_image(path, 1 << 20);
  CHECK(reopen("") == "'" + path + "' is another file now");
  CHECK(node.limits().request_alignment >= 512);
}

TEST_CASE("File: a node can not be made read-only under a writer", "[file]") {
  rhea::test::TempDir dir;
  BlockFixture f;
  const std::string path = make_image(dir.file("image"), 1 << 20);
  Disk disk(f, f.add(file_node(path)));
  CHECK_FALSE(f.graph().reopen(f.gs(), options(file_node(path, ",read-only=on"))).has_value());
  auto bytes = pattern(512, 1);
  CHECK(disk.write(0, bytes).has_value());
}
