#include "block/image_lock.h"

#include <catch2/catch.hpp>

#include "tests/unit/block/file_fixture.h"
#include "tests/unit/block/other_process.h"

using namespace rhea;
using namespace rhea::block;
using namespace rhea::block::test;
using Catch::Contains;

namespace {

Fd open_image(const std::string& path, int flags = O_RDWR) {
  Fd fd(::open(path.c_str(), flags | O_CLOEXEC));
  REQUIRE(fd);
  return fd;
}

std::string raw_node(const std::string& path, const std::string& file_options = {}) {
  return "driver=raw,node-name=r0,file.driver=file,file.filename=" + path + file_options;
}

}  // namespace

TEST_CASE("ImageLock: writers exclude each other, readers do not", "[lock]") {
  rhea::test::TempDir dir;
  const std::string path = make_image(dir.file("image"), 4096);
  const Fd a = open_image(path), b = open_image(path), c = open_image(path, O_RDONLY);
  ImageLock first(a.get(), path), second(b.get(), path), reader(c.get(), path);
  REQUIRE(first.prepare(kWriter).has_value());
  first.commit(kWriter);
  const auto refused = second.prepare(kWriter);
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().kind() == ErrorKind::kBusy);
  CHECK(message(refused) ==
        "Failed to get \"write\" lock: Is another process using the "
        "image [" +
            path + "]? It is held by this process");
  CHECK(reader.prepare(kReader).has_value());  // reading beside a writer that shares it
  reader.commit(kReader);
  const Permissions alone{.taken = Perm::kConsistentRead, .shared = Perm::kConsistentRead};
  CHECK_THAT(message(second.prepare(alone)), Contains("Failed to get shared \"write\" lock"));
  // What was refused has left nothing: the first can take its rights again, and more.
  const Permissions more{.taken = kWriter.taken | Perm::kResize, .shared = kWriter.shared};
  CHECK(first.prepare(more).has_value());
  first.abort();
  first.release();
  CHECK(second.prepare(kWriter).has_value());
  second.commit(kWriter);
}

TEST_CASE("ImageLock: what was prepared and not committed is let go", "[lock]") {
  rhea::test::TempDir dir;
  const std::string path = make_image(dir.file("image"), 4096);
  const Fd a = open_image(path), b = open_image(path);
  ImageLock first(a.get(), path), second(b.get(), path);
  REQUIRE(first.prepare(kWriter).has_value());
  CHECK_FALSE(second.prepare(kWriter).has_value());
  first.abort();
  REQUIRE(second.prepare(kWriter).has_value());
  second.commit(kWriter);
  second.commit({});  // gives all back
  CHECK(first.prepare(kWriter).has_value());
}

TEST_CASE("ImageLock: another open description takes over without a gap", "[lock]") {
  rhea::test::TempDir dir;
  const std::string path = make_image(dir.file("image"), 4096);
  const Fd a = open_image(path), b = open_image(path), c = open_image(path);
  ImageLock lock(a.get(), path), other(c.get(), path);
  REQUIRE(lock.prepare(kWriter).has_value());
  lock.commit(kWriter);
  REQUIRE(lock.copy_to(b.get()).has_value());
  lock.move_to(b.get());
  CHECK_FALSE(other.prepare(kWriter).has_value());
  lock.release();
  CHECK(other.prepare(kWriter).has_value());
}

TEST_CASE("ImageLock: a descriptor that can not be locked is told", "[lock]") {
  rhea::test::TempDir dir;
  const std::string path = make_image(dir.file("image"), 4096);
  const Fd write_only = open_image(path, O_WRONLY);  // no shared lock without the right to read
  ImageLock lock(write_only.get(), path);
  CHECK(message(lock.prepare(kReader)) == "Failed to lock byte 100 of '" + path +
                                              "' (locking=off does without): Bad file descriptor");
}

TEST_CASE("ImageLock: two nodes of one image conflict, but for locking=off and force-share",
          "[lock]") {
  rhea::test::TempDir dir;
  BlockFixture f;
  const std::string path = make_image(dir.file("image"), 4096);
  Disk disk(f, f.add(raw_node(path)));
  const auto attach = [&](const std::string& more) {
    auto node = f.graph().open(f.gs(), options("driver=file,filename=" + path + more));
    if (!node) return message(node);
    BlockBackend backend(f.graph(), "other",
                         more.find("read-only") != more.npos ? kReader : kWriter);
    auto inserted = backend.insert(f.gs(), **node);
    if (inserted) REQUIRE(backend.remove(f.gs()).has_value());
    return message(inserted);
  };
  CHECK_THAT(attach(""), Contains("Failed to get \"write\" lock"));
  CHECK(attach(",locking=off") == "");
  CHECK(attach(",read-only=on,force-share=on") == "");
  CHECK(attach(",read-only=on") == "");  // kReader shares everything
}

TEST_CASE("ImageLock: the lock is gone when the node is deleted, also from rings that used it",
          "[lock]") {
  rhea::test::TempDir dir;
  BlockFixture f;
  AioContext& thread = f.add_thread();
  const std::string path = make_image(dir.file("image"), 4096);
  {
    Disk disk(f, f.add(raw_node(path)));
    disk.run_on(thread);
    auto bytes = pattern(512, 1);
    REQUIRE(disk.write(0, bytes).has_value());
  }
  REQUIRE(f.graph().del(f.gs(), "r0").has_value());
  const Fd fd = open_image(path);
  ImageLock other(fd.get(), path);
  CHECK(message(other.prepare(kWriter)) == "");
}

TEST_CASE("ImageLock: a lock follows the node through a reopen", "[lock]") {
  rhea::test::TempDir dir;
  BlockFixture f;
  const std::string path = make_image(dir.file("image"), 4096);
  Disk disk(f, f.add("driver=file,node-name=f0,filename=" + path));
  REQUIRE(f.graph()
              .reopen(f.gs(), options("driver=file,node-name=f0,cache.direct=on,filename=" + path))
              .has_value());
  const Fd fd = open_image(path);
  ImageLock other(fd.get(), path);
  CHECK_FALSE(other.prepare(kWriter).has_value());
  REQUIRE(disk.backend().remove(f.gs()).has_value());
  CHECK(other.prepare(kWriter).has_value());  // what the new description held is let go, too
}

TEST_CASE("helper: holds the image as a writer", "[.helper]") {
  const std::string path = ::getenv("RHEA_TEST_IMAGE");
  BlockFixture f;
  auto node = f.graph().open(f.gs(), options(raw_node(path)));
  BlockBackend backend(f.graph(), "disk", kWriter);
  auto inserted = node ? backend.insert(f.gs(), **node) : Result<void>(node.error());
  std::string said = inserted ? "holding\n" : message(inserted) + "\n";
  MUST(write_all(STDOUT_FILENO, said));
  char byte;
  while (::read(STDIN_FILENO, &byte, 1) > 0) {
  }
  if (inserted) MUST(backend.remove(f.gs()));
}

TEST_CASE("ImageLock: of two processes the second is told who has the image", "[lock]") {
  rhea::test::TempDir dir;
  const std::string path = make_image(dir.file("image"), 4096);
  REQUIRE(::setenv("RHEA_TEST_IMAGE", path.c_str(), 1) == 0);
  const std::vector<std::string> command{"/proc/self/exe", "helper: holds the image as a writer"};
  OtherProcess first(command);
  REQUIRE(first.hear("holding"));
  OtherProcess second(command);
  REQUIRE(second.hear("It is held by process " + std::to_string(first.pid()) + " ("));
  CHECK_THAT(second.heard(), Contains("Failed to get \"write\" lock: Is another process "
                                      "using the image [" +
                                      path + "]?"));
  first.end();
  OtherProcess third(command);
  CHECK(third.hear("holding"));
}

TEST_CASE("ImageLock: QEMU's tools are kept out, and let in when they only look", "[lock]") {
  if (no_qemu()) return;
  rhea::test::TempDir dir;
  BlockFixture f;
  const std::string path = make_image(dir.file("image"), 4096);
  {
    Disk disk(f, f.add(raw_node(path)));
    const Answer info = run({"qemu-img", "info", "-f", "raw", path});
    CHECK(info.status == 0);  // reads, and shares all
    const Answer write = run({"qemu-io", "-f", "raw", "-c", "write 0 512", path});
    CHECK(write.status != 0);
    CHECK_THAT(write.text, Contains("Failed to get \"write\" lock") ||
                               Contains("Failed to get shared \"write\" lock"));
    CHECK(run({"qemu-img", "info", "-U", "-f", "raw", path}).status == 0);
  }
  REQUIRE(f.graph().del(f.gs(), "r0").has_value());
  CHECK(run({"qemu-io", "-f", "raw", "-c", "write 0 512", path}).status == 0);
}

TEST_CASE("ImageLock: an image that QEMU's tools write to is refused, and they are named",
          "[lock]") {
  if (no_qemu()) return;
  rhea::test::TempDir dir;
  BlockFixture f;
  const std::string path = make_image(dir.file("image"), 4096);
  OtherProcess qemu({"qemu-io", "-f", "raw", path});
  qemu.say("write 0 512\n");
  REQUIRE(qemu.hear("wrote 512"));
  BlockBackend backend(f.graph(), "disk", kWriter);
  Node& node = f.add(raw_node(path));
  const auto refused = backend.insert(f.gs(), node);
  CHECK_THAT(message(refused),
             Contains("write\" lock: Is another process using the image [" + path +
                      "]? It is held by process " + std::to_string(qemu.pid()) + " (qemu-io)"));
  CHECK(backend.node(f.gs()) == nullptr);
  CHECK(qemu.end() == 0);
  CHECK(backend.insert(f.gs(), node).has_value());
  REQUIRE(backend.remove(f.gs()).has_value());
}
