// Images that are another process's for a while: the two sides of a migration.
#include <atomic>
#include <catch2/catch.hpp>
#include <cerrno>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "block/drivers/blkdebug.h"
#include "block/image_lock.h"
#include "block/mirror.h"
#include "tests/support/size.h"
#include "tests/unit/block/fake_user.h"
#include "tests/unit/block/file_fixture.h"
#include "tests/unit/block/job_events.h"
#include "tests/unit/block/other_process.h"

using namespace rhea;
using namespace rhea::block;
using namespace rhea::block::test;
using Catch::Contains;
using std::chrono_literals::operator""ms;

namespace {

constexpr uint64_t kSize = 4096;

/// Who else has the image open: its locks are those of another process for all that look.
class Other {
 public:
  explicit Other(const std::string& path)
      : fd_(::open(path.c_str(), O_RDWR | O_CLOEXEC)), lock_(fd_.get(), path) {
    REQUIRE(fd_);
  }
  /// The error's text; empty if it has the image for itself now.
  std::string take(const Permissions& permissions = kWriter) {
    const auto prepared = lock_.prepare(permissions);
    if (prepared) lock_.commit(permissions);
    return message(prepared);
  }
  void leave() { lock_.release(); }
  bool could_take(const Permissions& permissions = kWriter) {
    const bool could = take(permissions).empty();
    leave();
    return could;
  }

 private:
  Fd fd_;
  ImageLock lock_;
};

/// A machine that awaits the images of another.
struct Incoming : BlockFixture {
  Incoming() { REQUIRE(graph().inactivate_all(gs()).has_value()); }
  std::string activate() { return message(graph().activate_all(gs())); }
  std::string inactivate() { return message(graph().inactivate_all(gs())); }
  rhea::test::TempDir dir;
};

std::string file_node(const std::string& path, const std::string& more = {}) {
  return "driver=raw,node-name=r0,file.driver=file,file.node-name=f0,file.filename=" + path + more;
}

/// What changes an image, each on its own.
std::vector<Result<void>> changes(BlockFixture& f, Disk& disk) {
  auto bytes = pattern(512, 9);
  return {disk.write(0, bytes),
          disk.write(0, bytes, WriteFlags::kForceUnitAccess),
          disk.write(7, std::span(bytes).first(3)),
          disk.zero(0, 512),
          disk.discard(0, kSize),
          f.graph().resize(f.gs(), disk.node(), 2 * kSize)};
}

void check_refused(BlockFixture& f, Disk& disk) {
  for (const Result<void>& change : changes(f, disk)) {
    REQUIRE_FALSE(change.has_value());
    CHECK(change.error().kind() == ErrorKind::kPermission);
    CHECK(change.error().os_errno() == EPERM);
    CHECK(message(change) == "Block node 'r0' is inactive: its image is another process's");
  }
}

}  // namespace

TEST_CASE("Graph: an image that another writes is opened inactive, and ours once it has let go",
          "[activation]") {
  Incoming f;
  const std::string path = make_image(f.dir.file("image"), kSize);
  Other source(path);
  REQUIRE(source.take() == "");
  Disk disk(f, f.add(file_node(path, ",discard=unmap")));
  CHECK_FALSE(f.graph().active());
  // What the other writes is read; whoever asks for the size hears it.
  auto theirs = pattern(512, 1), read = pattern(512, 2);
  put(path, 0, theirs);
  REQUIRE(disk.read(0, read).has_value());
  CHECK(read == theirs);
  CHECK(disk.backend().length() == kSize);
  CHECK_FALSE(disk.backend().read_only());
  check_refused(f, disk);
  CHECK(disk.flush().has_value());
  CHECK(contents(path, 0, 512) == theirs);

  CHECK_THAT(f.activate(), Contains("Is another process using the image [" + path + "]?"));
  check_refused(f, disk);
  source.leave();
  REQUIRE(f.activate() == "");
  CHECK(f.graph().active());
  CHECK(source.take() != "");
  for (const Result<void>& change : changes(f, disk)) CHECK(message(change) == "");
  CHECK(f.activate() == "");  // it is so
}

TEST_CASE("Graph: of several images every one that is taken is named, and none stays locked",
          "[activation]") {
  Incoming f;
  std::vector<std::string> paths;
  std::vector<std::unique_ptr<Disk>> disks;
  for (int i = 0; i < 4; ++i) {
    paths.push_back(make_image(f.dir.file("image" + std::to_string(i)), kSize));
    Node& node = f.add(fmt::format("driver=file,node-name=n{},filename={}", i, paths.back()));
    disks.push_back(std::make_unique<Disk>(f, node));
  }
  Other first(paths[1]), second(paths[3]);
  REQUIRE(first.take() == "");
  REQUIRE(second.take() == "");
  const auto refused = f.graph().activate_all(f.gs());
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().kind() == ErrorKind::kBusy);
  CHECK(message(refused) ==
        "Failed to get \"write\" lock: Is another process using the image [" + paths[1] +
            "]? It is held by this process; Failed to get \"write\" lock: Is another process using "
            "the image [" +
            paths[3] + "]? It is held by this process");
  for (const int i : {0, 2}) CHECK(Other(paths[static_cast<size_t>(i)]).could_take());
  CHECK_FALSE(f.graph().active());
  first.leave();
  second.leave();
  REQUIRE(f.activate() == "");
  for (const std::string& path : paths) CHECK_FALSE(Other(path).could_take());
}

TEST_CASE("Graph: an image that has grown meanwhile is told of when it becomes ours",
          "[activation]") {
  Incoming f;
  const std::string path = make_image(f.dir.file("image"), kSize);
  Disk disk(f, f.add(file_node(path)));
  FakeUser user;
  disk.backend().set_user(&user);
  REQUIRE(::truncate(path.c_str(), 3 * kSize) == 0);
  CHECK(disk.backend().length() == kSize);
  REQUIRE(f.activate() == "");
  CHECK(disk.backend().length() == 3 * kSize);
  CHECK(user.resizes == 1);
  disk.backend().set_user(nullptr);
}

TEST_CASE(
    "Graph: readers, shared images and locking=off keep their meaning when images become ours",
    "[activation]") {
  Incoming f;
  const std::string path = make_image(f.dir.file("image"), kSize);
  Other other(path);
  REQUIRE(other.take() == "");
  const auto opened = [&](const std::string& more, const Permissions& permissions) {
    return std::make_unique<Disk>(f, f.add("driver=file,node-name=n0,filename=" + path + more),
                                  permissions);
  };
  const Permissions alone{.taken = Perm::kConsistentRead, .shared = Perm::kConsistentRead};
  for (const auto& [more, permissions, works] :
       {std::tuple(",locking=off", kWriter, true), std::tuple(",read-only=on", kReader, true),
        std::tuple(",read-only=on", alone, false),
        std::tuple(",read-only=on,force-share=on", alone, true)}) {
    INFO(more);
    auto disk = opened(more, permissions);
    CHECK(f.activate().empty() == works);
    if (works) CHECK(f.inactivate() == "");
    disk.reset();
    REQUIRE(f.graph().del(f.gs(), "n0").has_value());
  }
}

TEST_CASE("Graph: nodes that come, change and go while images are not ours take no locks",
          "[activation]") {
  Incoming f;
  const std::string path = make_image(f.dir.file("image"), kSize);
  Other source(path);
  REQUIRE(source.take() == "");
  f.add("driver=file,node-name=n0,filename=" + path);
  REQUIRE(f.graph().del(f.gs(), "n0").has_value());
  Node& node = f.add("driver=file,node-name=n0,filename=" + path);
  Disk disk(f, node);
  REQUIRE(f.graph()
              .reopen(f.gs(), options("driver=file,node-name=n0,cache.direct=on,filename=" + path))
              .has_value());
  source.leave();
  CHECK(source.could_take());
  REQUIRE(f.activate() == "");
  CHECK_FALSE(source.could_take());
  // Once they are ours all is as ever.
  REQUIRE(
      f.graph().reopen(f.gs(), options("driver=file,node-name=n0,filename=" + path)).has_value());
  CHECK_FALSE(source.could_take());
}

TEST_CASE("Graph: images are given to another process and taken back", "[activation]") {
  rhea::test::TempDir dir;
  BlockFixture f;
  const std::string path = make_image(dir.file("image"), kSize);
  REQUIRE(::setenv("RHEA_TEST_IMAGE", path.c_str(), 1) == 0);
  const std::vector<std::string> command{"/proc/self/exe", "helper: holds the image as a writer"};
  Disk disk(f, f.add(file_node(path)));
  auto ours = pattern(512, 3);
  REQUIRE(disk.write(0, ours).has_value());
  {
    OtherProcess refused(command);
    REQUIRE(refused.hear("Failed to get"));
  }
  REQUIRE(message(f.graph().inactivate_all(f.gs())) == "");
  CHECK(contents(path, 0, 512) == ours);
  OtherProcess destination(command);
  REQUIRE(destination.hear("holding"));
  CHECK_THAT(message(f.graph().activate_all(f.gs())),
             Contains("It is held by process " + std::to_string(destination.pid()) + " ("));
  check_refused(f, disk);
  destination.end();
  REQUIRE(message(f.graph().activate_all(f.gs())) == "");
  CHECK(disk.write(0, ours).has_value());
}

TEST_CASE("Graph: QEMU's tools have images that are not ours, and are named as long as they do",
          "[activation]") {
  if (no_qemu()) return;
  Incoming f;
  const std::string path = make_image(f.dir.file("image"), kSize);
  OtherProcess qemu({"qemu-io", "-f", "raw", path});
  qemu.say("write -P 7 0 512\n");
  REQUIRE(qemu.hear("wrote 512"));
  Disk disk(f, f.add(file_node(path)));
  CHECK_THAT(f.activate(), Contains("image [" + path + "]? It is held by process " +
                                    std::to_string(qemu.pid()) + " (qemu-io)"));
  CHECK(qemu.end() == 0);
  REQUIRE(f.activate() == "");
  std::vector<std::byte> read(512);
  REQUIRE(disk.read(0, read).has_value());
  CHECK(read == std::vector(512, std::byte{7}));
  const std::vector<std::string> write{"qemu-io", "-f", "raw", "-c", "write 0 512", path};
  CHECK(run(write).status != 0);
  REQUIRE(f.inactivate() == "");
  CHECK(run(write).status == 0);
}

TEST_CASE("Graph: what was written is flushed before images are given up", "[activation]") {
  BlockFixture f;
  Node& bottom = f.add("driver=test-disk,node-name=t0,size=1M");
  Disk disk(f, f.add("driver=raw,node-name=r0,file=t0"));
  f.add("driver=test-disk,node-name=t1,size=1M,read-only=on");
  REQUIRE(f.graph().inactivate_all(f.gs()).has_value());
  CHECK(TestDisk::of(bottom).flushes() == 1);  // once, from the top
  CHECK(TestDisk::of(*f.graph().find(f.gs(), "t1")).flushes() == 0);
  REQUIRE(f.graph().inactivate_all(f.gs()).has_value());
  CHECK(disk.flush().has_value());
  CHECK(TestDisk::of(bottom).flushes() == 1);  // there is nothing to flush
  REQUIRE(f.graph().activate_all(f.gs()).has_value());
  CHECK(disk.flush().has_value());
  CHECK(TestDisk::of(bottom).flushes() == 2);
}

namespace {

/// A write that a drain holds back, in whose midst `meanwhile` is done.
template <class Bytes, class F>
void write_behind_a_drain(BlockFixture& f, Disk& disk, Bytes& bytes,
                          std::optional<Result<void>>& written, F&& meanwhile) {
  const auto drained = f.graph().with_all_drained(f.gs(), [&](DrainBypass&) -> Result<void> {
    TRY(spawn(f.main(), [&](Co& co) {
      iovec piece;
      written = disk.backend().co_write(co, 0, vector_of(bytes, piece));
      f.loop().waiter().kick();
    }));
    f.settle_main();
    meanwhile();
    return ok();
  });
  REQUIRE(drained.has_value());
}

}  // namespace

TEST_CASE("Graph: a write that a drain has held back is made before images are given up",
          "[activation]") {
  rhea::test::TempDir dir;
  BlockFixture f;
  const std::string path = make_image(dir.file("image"), kSize);
  Disk disk(f, f.add(file_node(path)));
  auto bytes = pattern(512, 6);
  std::optional<Result<void>> written;
  write_behind_a_drain(f, disk, bytes, written, [] {});
  // Woken, and not on its way yet.
  CHECK_FALSE(written.has_value());
  REQUIRE(message(f.graph().inactivate_all(f.gs())) == "");
  f.wait_until([&] { return written.has_value(); });
  CHECK(message(*written) == "");
  CHECK(contents(path, 0, 512) == bytes);
}

TEST_CASE("Graph: a request that waits while images come back goes on when they are ours",
          "[activation]") {
  Incoming f;
  const std::string path = make_image(f.dir.file("image"), kSize);
  Disk disk(f, f.add(file_node(path)));
  auto bytes = pattern(512, 7);
  std::optional<Result<void>> written;
  std::string activated;
  write_behind_a_drain(f, disk, bytes, written, [&] { activated = f.activate(); });
  CHECK(activated == "");
  f.wait_until([&] { return written.has_value(); });
  CHECK(message(*written) == "");
  CHECK(contents(path, 0, 512) == bytes);
}

TEST_CASE("Graph: a mirror does not begin while images are not ours", "[activation]") {
  BlockFixture f;
  Node& a = f.add("driver=test-disk,node-name=a,size=1M");
  Node& b = f.add("driver=test-disk,node-name=b,size=1M");
  REQUIRE(f.graph().inactivate_all(f.gs()).has_value());
  MirrorConfig config;
  config.id = "m0";
  const auto refused = Mirror::create(f.gs(), f.graph(), a, b, config);
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().kind() == ErrorKind::kPermission);
  CHECK(refused.error().message() == "Block node 'b' is inactive: its image is another process's");
  CHECK(a.parents(f.gs()).empty());
  REQUIRE(f.graph().activate_all(f.gs()).has_value());
  JobEvents events;
  Jobs jobs(events);
  REQUIRE(jobs.add(MUST(Mirror::create(f.gs(), f.graph(), a, b, config))).has_value());
  jobs.cancel_all(f.gs(), f.graph());
}

TEST_CASE("Graph: images stay ours if a flush fails or does not end", "[activation]") {
  rhea::test::TempDir dir;
  BlockFixture f;
  const std::string path = make_image(dir.file("image"), kSize);
  const char* fault = GENERATE("errno=5", "suspend=held");
  Node& node =
      f.add(fmt::format("driver=blkdebug,node-name=b0,inject-error.0.event=flush_to_disk,"
                        "inject-error.0.once=on,inject-error.0.{},image.driver=file,"
                        "image.filename={}",
                        fault, path));
  Disk disk(f, node);
  const auto kept = f.graph().inactivate_all(f.gs(), 100ms);
  REQUIRE_FALSE(kept.has_value());
  if (std::string(fault) == "suspend=held") {
    CHECK(kept.error().kind() == ErrorKind::kTimeout);
    CHECK_THAT(message(kept), Contains("The flush of node 'b0' did not end"));
    // It is a request like any other: what needs a quiet graph waits for it.
    CHECK_FALSE(f.graph().change(f.gs(), [](GraphWrite&) {}, 20ms).has_value());
    dynamic_cast<Blkdebug&>(node.driver()).resume("held");
  } else {
    CHECK(kept.error().kind() == ErrorKind::kIo);
  }
  CHECK(f.graph().active());
  CHECK_FALSE(Other(path).could_take());
  auto bytes = pattern(512, 4);
  CHECK(disk.write(0, bytes).has_value());
  REQUIRE(message(f.graph().inactivate_all(f.gs())) == "");
  CHECK(Other(path).could_take());
}

TEST_CASE("Graph: images stay ours if a request does not end, or a job writes", "[activation]") {
  BlockFixture f;
  Node& a = f.add("driver=test-disk,node-name=a,size=1M");
  Node& b = f.add("driver=test-disk,node-name=b,size=1M");
  Disk disk(f, a);
  SECTION("a request") {
    Requests requests(f, disk.backend());
    TestDisk::of(a).hold();
    requests.read(f.main());
    f.wait_until([&] { return TestDisk::of(a).held() == 1; });
    const auto kept = f.graph().inactivate_all(f.gs(), 20ms);
    REQUIRE_FALSE(kept.has_value());
    CHECK(kept.error().kind() == ErrorKind::kTimeout);
    CHECK_THAT(message(kept), Contains("on node 'a'"));
    TestDisk::of(a).release();
    f.wait_until([&] { return requests.done() == 1; });
  }
  SECTION("a job") {
    JobEvents events;
    Jobs jobs(events);
    MirrorConfig config;
    config.id = "m0";
    auto job = MUST(Mirror::create(f.gs(), f.graph(), a, b, config));
    REQUIRE(jobs.add(std::move(job)).has_value());
    CHECK(message(f.graph().inactivate_all(f.gs())) == "Node 'b' is in use: job 'm0' writes to it");
    jobs.cancel_all(f.gs(), f.graph());
  }
  CHECK(f.graph().active());
  CHECK(f.graph().inactivate_all(f.gs()).has_value());
}

TEST_CASE("Graph: no write gets through while images are not ours, whenever that begins and ends",
          "[activation][stress]") {
  rhea::test::TempDir dir;
  BlockFixture f;
  const std::string path = make_image(dir.file("image"), kSize);
  Disk disk(f, f.add(file_node(path)));
  std::atomic<bool> stop{false};
  std::atomic<unsigned> running{0}, written{0}, refused{0}, wrong{0};
  constexpr unsigned kThreads = 2, kWriters = 4;
  for (unsigned i = 0; i < kThreads * kWriters; ++i) {
    AioContext& thread = i % kWriters == 0 ? f.add_thread() : f.graph().main_context().aio();
    ++running;
    MUST(spawn(thread, [&, i](Co& co) {
      std::vector<std::byte> bytes(512);
      iovec piece;
      for (unsigned round = 0; !stop; ++round) {
        std::ranges::fill(bytes, static_cast<std::byte>(round));
        const auto result = disk.backend().co_write(co, i % 8 * 512, vector_of(bytes, piece));
        if (result) {
          ++written;
        } else {
          (result.error().os_errno() == EPERM ? refused : wrong) += 1;
        }
        co.reschedule();
      }
      MainWait& main = f.loop().waiter();
      --running;
      main.kick();
    }));
  }
  Other other(path);
  const auto goes_on = [&](std::atomic<unsigned>& counter) {
    const unsigned before = counter;
    f.wait_until([&] {
      f.main().notify();
      return counter > before;
    });
  };
  const int rounds = rhea::test::sized(20, 500);
  for (int round = 0; round < rounds; ++round) {
    goes_on(written);
    REQUIRE(message(f.graph().inactivate_all(f.gs())) == "");
    REQUIRE(other.take() == "");
    const auto before = contents(path, 0, kSize);
    goes_on(refused);
    CHECK(contents(path, 0, kSize) == before);
    other.leave();
    REQUIRE(message(f.graph().activate_all(f.gs())) == "");
  }
  stop = true;
  f.wait_until([&] { return running == 0; });
  CHECK(wrong == 0);
}
