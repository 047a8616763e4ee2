// Node's front against a model: whatever limits a driver has, and whatever a user asks, the result
// is that of an array of bytes, and the driver sees nothing that its limits exclude.
#include <catch2/catch.hpp>
#include <map>
#include <random>

#include "tests/support/size.h"
#include "tests/support/watchdog.h"
#include "tests/unit/block/block_fixture.h"

using namespace rhea;
using namespace rhea::block;
using namespace rhea::block::test;
using namespace std::chrono_literals;

namespace {

using Random = std::mt19937_64;

uint64_t below(Random& random, uint64_t limit) { return random() % limit; }
bool chance(Random& random, uint64_t in) { return below(random, in) == 0; }

constexpr uint64_t kSize = 256 * 1024;

/// Limits as a driver may have them: the memory's no greater than the requests', and what is at
/// most taken at once a multiple of both.
std::string random_limits(Random& random) {
  const uint64_t alignment = uint64_t{1} << below(random, 13);
  const uint64_t memory = uint64_t{1} << below(random, 13);
  const uint64_t unit = std::max(alignment, memory);
  const auto most = [&] { return chance(random, 2) ? 0 : unit * (1 + below(random, 8)); };
  return fmt::format(
      "driver=test-disk,node-name=d,size={},request-alignment={},memory-alignment={},"
      "max-transfer={},max-pieces={},max-write-zeroes={},max-discard={},fua={},zeroes={},"
      "discards={},discard=unmap",
      kSize, alignment, memory, most(), 1 + below(random, 8), most(), most(),
      chance(random, 2) ? "on" : "off", chance(random, 2) ? "on" : "off",
      chance(random, 2) ? "on" : "off");
}

/// A request's memory: pieces of any size, at any address.
class Memory {
 public:
  Memory(Random& random, uint64_t size) : room_(2 * size + 64 * 8192) {
    uint64_t at = 0;
    const uint64_t most = 1 + below(random, 40);
    while (size != 0) {
      const bool odd = chance(random, 2);
      at = odd ? at + below(random, 3) : (at + 4095) & ~uint64_t{4095};
      const bool last = pieces_.size() + 1 >= most || at + size + 8192 >= room_.size();
      const uint64_t piece = last ? size : 1 + below(random, std::min<uint64_t>(size, 5000));
      pieces_.push_back({.iov_base = room_.data() + at, .iov_len = piece});
      at += piece;
      size -= piece;
    }
  }
  IoVector vector() const { return IoVector::of(pieces_); }
  std::vector<std::byte> bytes() const {
    std::vector<std::byte> all(vector().size);
    vector().copy_to(0, all);
    return all;
  }
  void fill(Random& random) {
    for (const iovec& piece : pieces_) {
      for (std::byte& byte : std::span(static_cast<std::byte*>(piece.iov_base), piece.iov_len)) {
        byte = static_cast<std::byte>(random());
      }
    }
  }

 private:
  std::vector<std::byte> room_;
  std::vector<iovec> pieces_;
};

/// What one coroutine does to a stretch of the node that is its own, to the byte: the blocks at its
/// ends it shares with its neighbours.
class Worker {
 public:
  Worker(Node& node, uint64_t from, uint64_t to, uint64_t seed)
      : node_(node), from_(from), model_(to - from), random_(seed) {}

  /// Returns at the first thing that is wrong, which wrong() then names.
  void run(Co& co, int steps) {
    for (int i = 0; i < steps && wrong_.empty(); ++i) {
      GraphReadGuard reading(co);
      step(co);
    }
  }
  const std::string& wrong() const { return wrong_; }
  uint64_t from() const { return from_; }
  const std::vector<std::byte>& model() const { return model_; }

 private:
  void step(Co& co) REQUIRES_SHARED(graph_lock) {
    const uint64_t most = chance(random_, 8) ? model_.size() : 12000;
    const uint64_t at = below(random_, model_.size());
    const uint64_t size = std::min(below(random_, most + 1), model_.size() - at);
    const auto flags = chance(random_, 4) ? WriteFlags::kForceUnitAccess : WriteFlags::kNone;
    switch (below(random_, 6)) {
      case 0:
      case 1:
        return read(co, at, size);
      case 2:
      case 3:
        return write(co, at, size, flags);
      case 4:
        return zero(co, at, size, flags);
      default:
        return discard(co, at, size);
    }
  }
  std::span<std::byte> part(uint64_t at, uint64_t size) {
    return std::span(model_).subspan(at, size);
  }
  void expect(const Result<void>& result, const char* what) {
    if (!result) wrong_ = fmt::format("{}: {}", what, result.error().message());
  }
  void read(Co& co, uint64_t at, uint64_t size) REQUIRES_SHARED(graph_lock) {
    const Memory memory(random_, size);
    expect(node_.co_read(co, from_ + at, memory.vector()), "read");
    if (!std::ranges::equal(memory.bytes(), part(at, size))) {
      wrong_ = fmt::format("{} bytes read at {} differ", size, from_ + at);
    }
  }
  void write(Co& co, uint64_t at, uint64_t size, WriteFlags flags) REQUIRES_SHARED(graph_lock) {
    Memory memory(random_, size);
    memory.fill(random_);
    expect(node_.co_write(co, from_ + at, memory.vector(), flags), "write");
    std::ranges::copy(memory.bytes(), part(at, size).begin());
  }
  void zero(Co& co, uint64_t at, uint64_t size, WriteFlags flags) REQUIRES_SHARED(graph_lock) {
    const bool plain = chance(random_, 2);
    const auto result =
        node_.co_write_zeroes(co, from_ + at, size, plain ? flags : flags | WriteFlags::kMayUnmap);
    expect(result, "zeroes");
    std::ranges::fill(part(at, size), std::byte{0});
  }
  /// What it leaves is open, within its range; nothing beyond may change.
  void discard(Co& co, uint64_t at, uint64_t size) REQUIRES_SHARED(graph_lock) {
    expect(node_.co_discard(co, from_ + at, size), "discard");
    std::vector<std::byte> now(size);
    iovec piece;
    expect(node_.co_read(co, from_ + at, vector_of(now, piece)), "read");
    for (uint64_t i = 0; i < size; ++i) {
      if (now[i] != part(at, size)[i] && now[i] != std::byte{0})
        wrong_ = "discard made something up";
    }
    std::ranges::copy(now, part(at, size).begin());
  }

  Node& node_;
  const uint64_t from_;
  std::vector<std::byte> model_;
  Random random_;
  std::string wrong_;
};

/// Several workers on several threads, side by side in one node.
void check_against_model(uint64_t seed, int steps) {
  Random random(seed);
  BlockFixture f;
  const std::string limits = random_limits(random);
  INFO("seed " << seed << ": " << limits);
  Node& node = f.add(limits);
  if (chance(random, 2)) TestDisk::of(node).yield_in_requests();
  std::vector<AioContext*> threads{&f.main(), &f.add_thread()};
  std::vector<std::unique_ptr<Worker>> workers;
  for (uint64_t from = 0; from < kSize;) {
    const uint64_t left = kSize - from;
    const bool last = workers.size() == 3;
    const uint64_t to = last ? kSize : from + 1 + below(random, left / 2);
    workers.push_back(std::make_unique<Worker>(node, from, to, random()));
    from = to;
  }
  std::atomic<size_t> running = workers.size();
  for (size_t i = 0; i < workers.size(); ++i) {
    MUST(spawn(*threads[i % threads.size()], [&, worker = workers[i].get()](Co& co) {
      worker->run(co, steps);
      MainWait& main = f.loop().waiter();
      --running;
      main.kick();
    }));
  }
  f.wait_until([&] { return running == 0; });
  const std::vector<std::byte> bytes = TestDisk::of(node).bytes();
  for (const auto& worker : workers) {
    CHECK(worker->wrong() == "");
    CHECK(std::ranges::equal(std::span(bytes).subspan(worker->from(), worker->model().size()),
                             worker->model()));
  }
  CHECK(TestDisk::of(node).breaches() == 0);
}

Result<void> run(BlockFixture& f, const std::function<Result<void>(Co&)>& body) {
  return f.graph().run_sync(f.gs(), f.main(), [&](Co& co) -> Result<void> {
    GraphReadGuard reading(co);
    return body(co);
  });
}

}  // namespace

TEST_CASE("Node: random requests under random limits do what an array of bytes does", "[node]") {
  const rhea::test::Watchdog watchdog("node property test", 600s);
  const auto rounds = rhea::test::sized<uint64_t>(150, 10'000);
  for (uint64_t seed = 1; seed <= rounds; ++seed) {
    check_against_model(seed, 40);
    rhea::test::Watchdog::feed();
  }
}

TEST_CASE("Node: a block in more pieces than the driver takes is copied", "[node]") {
  BlockFixture f;
  Node& node = f.add("driver=test-disk,node-name=d,size=64k,request-alignment=512,max-pieces=2");
  auto bytes = pattern(1024, 9);
  std::vector<iovec> pieces;
  for (std::byte& byte : bytes) pieces.push_back({.iov_base = &byte, .iov_len = 1});
  CHECK(run(f, [&](Co& co) {
          graph_lock.assert_reading();
          return node.co_write(co, 512, IoVector::of(pieces));
        }).has_value());
  const auto disk = TestDisk::of(node).bytes();
  CHECK(std::ranges::equal(std::span(disk).subspan(512, 1024), bytes));
  const std::vector<std::byte> written = bytes;
  std::ranges::fill(bytes, std::byte{0});
  CHECK(run(f, [&](Co& co) {
          graph_lock.assert_reading();
          return node.co_read(co, 512, IoVector::of(pieces));
        }).has_value());
  CHECK(bytes == written);
  CHECK(TestDisk::of(node).breaches() == 0);
}

TEST_CASE("Node: a padded request respects the driver's longest transfer", "[node]") {
  BlockFixture f;
  Node& node = f.add(
      "driver=test-disk,node-name=d,size=1M,request-alignment=4096,max-transfer=8192,"
      "memory-alignment=512");
  auto bytes = pattern(100'001, 9), back = std::vector<std::byte>(100'001);
  CHECK(run(f, [&](Co& co) -> Result<void> {
          graph_lock.assert_reading();
          iovec piece;
          TRY(node.co_write(co, 7, vector_of(bytes, piece)));
          return node.co_read(co, 7, vector_of(back, piece));
        }).has_value());
  CHECK(back == bytes);
  CHECK(TestDisk::of(node).breaches() == 0);
}

TEST_CASE("Node: a forced write is followed by a flush where the driver does not force", "[node]") {
  BlockFixture f;
  auto bytes = pattern(512, 1);
  for (const bool fua : {true, false}) {
    Node& node = f.add(fmt::format("driver=test-disk,node-name=d{0},fua={1},zeroes={1}",
                                   fua ? 1 : 0, fua ? "on" : "off"));
    TestDisk& disk = TestDisk::of(node);
    CHECK(run(f, [&](Co& co) -> Result<void> {
            graph_lock.assert_reading();
            iovec piece;
            TRY(node.co_write(co, 0, vector_of(bytes, piece), WriteFlags::kForceUnitAccess));
            return node.co_write_zeroes(co, 0, 512, WriteFlags::kForceUnitAccess);
          }).has_value());
    CHECK(disk.forced() == (fua ? 2 : 0));
    CHECK(disk.flushes() == (fua ? 0 : 2));
    CHECK(disk.breaches() == 0);
  }
}

TEST_CASE("Node: an unaligned write waits for others and keeps them out", "[node]") {
  const rhea::test::Watchdog watchdog("node serialisation", 60s);
  BlockFixture f;
  Node& node = f.add("driver=test-disk,node-name=d,size=64k,request-alignment=4096");
  TestDisk& disk = TestDisk::of(node);
  std::vector<std::byte> whole = pattern(4096, 1), small = pattern(100, 77), other = pattern(50, 5);
  std::atomic<int> done = 0;
  const auto start = [&](uint64_t offset, std::vector<std::byte>& bytes) {
    MUST(spawn(f.main(), [&, offset](Co& co) {
      GraphReadGuard reading(co);
      iovec piece;
      MUST(node.co_write(co, offset, vector_of(bytes, piece)));
      ++done;
    }));
  };
  disk.hold();
  start(0, whole);
  f.wait_until([&] { return disk.held() == 1; });
  start(10, small);   // must not read the block before it is written
  start(500, other);  // nor this before the one before
  start(0, whole);    // nor this come between a read and its write
  f.settle_main();
  CHECK(disk.requests() == 1);
  disk.release();
  f.wait_until([&] { return done == 4; });
  // The whole writes came in any order; what is left is one of the orders, with nothing lost.
  const auto now = disk.bytes();
  const auto is = [&](uint64_t at, const std::vector<std::byte>& bytes) {
    return std::ranges::equal(std::span(now).subspan(at, bytes.size()), bytes);
  };
  const std::vector<std::byte> under_small(whole.begin() + 10, whole.begin() + 110);
  const std::vector<std::byte> under_other(whole.begin() + 500, whole.begin() + 550);
  CHECK((is(10, small) || is(10, under_small)));
  CHECK((is(500, other) || is(500, under_other)));
  CHECK(is(600, {whole.begin() + 600, whole.end()}));
  CHECK(disk.breaches() == 0);
}

TEST_CASE("Node: overlapping unaligned writes from several threads lose nothing", "[node]") {
  const rhea::test::Watchdog watchdog("node overlapping writes", 120s);
  BlockFixture f;
  Node& node = f.add("driver=test-disk,node-name=d,size=16k,request-alignment=4096");
  TestDisk::of(node).yield_in_requests();
  std::vector<AioContext*> threads{&f.main(), &f.add_thread(), &f.add_thread()};
  constexpr int kWriters = 12;
  const int rounds = rhea::test::sized(100, 5000);
  std::atomic<int> running = kWriters;
  for (int i = 0; i < kWriters; ++i) {  // each has every twelfth byte to itself
    MUST(spawn(*threads[static_cast<size_t>(i) % threads.size()], [&, i](Co& co) {
      for (int round = 1; round <= rounds; ++round) {
        GraphReadGuard reading(co);
        auto byte = static_cast<std::byte>(round);
        iovec piece;
        for (uint64_t at = static_cast<uint64_t>(i); at < 4 * kWriters; at += kWriters) {
          MUST(node.co_write(co, at * 111, vector_of({&byte, 1}, piece)));
        }
      }
      MainWait& main = f.loop().waiter();
      --running;
      main.kick();
    }));
  }
  f.wait_until([&] { return running == 0; });
  const auto bytes = TestDisk::of(node).bytes();
  for (size_t at = 0; at < 4 * kWriters; ++at) {
    CHECK(bytes[at * 111] == static_cast<std::byte>(rounds));
  }
  CHECK(TestDisk::of(node).breaches() == 0);
}
