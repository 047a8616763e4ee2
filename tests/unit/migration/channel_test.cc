#include "migration/channel.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <functional>
#include <string>
#include <vector>

#include "tests/support/manual_clock.h"
#include "tests/support/temp_dir.h"
#include "tests/support/watchdog.h"
#include "tests/unit/migration/pairs.h"
#include "util/thread.h"

using namespace rhea;
using namespace rhea::migration;
using namespace rhea::migration::test;
using namespace std::chrono_literals;
using rhea::test::Watchdog;

namespace {

using Bytes = std::vector<std::byte>;

struct Kind {
  const char* name;
  Ends (*make)();
};
constexpr Kind kKinds[] = {{"socket", socket_ends}, {"pipe", pipe_ends}};

/// `bytes` cut into parts of odd sizes, empty ones among them.
std::vector<iovec> cut(std::span<std::byte> bytes) {
  std::vector<iovec> parts;
  for (size_t size = 0; !bytes.empty(); size = (size * 7 + 13) % 5000) {
    const auto part = bytes.first(std::min(size, bytes.size()));
    parts.push_back({.iov_base = part.data(), .iov_len = part.size()});
    bytes = bytes.subspan(part.size());
  }
  return parts;
}

/// Runs `body` on a thread that, as all of ours, blocks signals; its result is there after join().
class Background {
 public:
  explicit Background(std::function<Result<void>()> body)
      : thread_(MUST(Thread::start("test", [this, body = std::move(body)] { done_ = body(); }))) {}
  Result<void>& join() {
    thread_.join();
    return done_;
  }

 private:
  Result<void> done_;
  Thread thread_;
};

/// Until the thread that fills `out` has nowhere to go: its descriptor takes no more.
void wait_until_full(int fd) {
  pollfd state{.fd = fd, .events = POLLOUT, .revents = 0};
  while (::poll(&state, 1, 0) != 0) std::this_thread::yield();
}

}  // namespace

TEST_CASE("Channel: thousands of parts arrive whole, however they are cut", "[migration]") {
  const Watchdog watchdog("channel transfer", 300s);
  for (const Kind& kind : kKinds) {
    INFO(kind.name);
    Ends ends = kind.make();
    Bytes sent = random_bytes(6'000'000, 1);
    Bytes received(sent.size());
    std::atomic<uint64_t> counter = 0;
    ends.out->count_into(&counter);
    Background writer([&] {
      auto parts = cut(sent);
      return ends.out->write(parts);
    });
    auto parts = cut(received);
    parts.insert(parts.begin(), iovec{});
    const auto read = ends.in->read(parts);
    CHECK(writer.join().has_value());
    REQUIRE(read.has_value());
    CHECK(sent == received);
    CHECK(counter == sent.size());
  }
}

TEST_CASE("Channel: both ends of a socket can be written, a pipe says it is one-way",
          "[migration]") {
  CHECK(socket_ends().out->two_way());
  CHECK_FALSE(pipe_ends().out->two_way());
}

TEST_CASE("Channel: a peer that has gone is named with the stream and errno", "[migration]") {
  const Bytes data(100);
  for (const Kind& kind : kKinds) {
    Ends ends = kind.make();
    ends.in.reset();
    Background writer([&] { return ends.out->write(data); });
    const auto& written = writer.join();
    REQUIRE_FALSE(written.has_value());
    CHECK(written.error().message() ==
          std::string("Unable to write to ") + kind.name + ": Broken pipe");
    CHECK(written.error().os_errno() == EPIPE);
  }
}

TEST_CASE("Channel: the stream's end is an error in the middle, and none between", "[migration]") {
  for (const Kind& kind : kKinds) {
    Ends ends = kind.make();
    Bytes buffer(10);
    REQUIRE(ends.out->write(Bytes(13)).has_value());
    ends.out.reset();
    const auto whole = ends.in->read_unless_ended(buffer);
    REQUIRE(whole.has_value());
    CHECK(*whole);
    const auto cut_off = ends.in->read(buffer);
    REQUIRE_FALSE(cut_off.has_value());
    CHECK(cut_off.error().message() ==
          std::string("Unable to read from ") + kind.name + ": the stream ended 7 bytes early");
    const auto ended = ends.in->read_unless_ended(buffer);
    REQUIRE(ended.has_value());
    CHECK_FALSE(*ended);
  }
}

TEST_CASE("Channel: shutdown wakes a writer whose peer reads nothing", "[migration]") {
  const Watchdog watchdog("shutdown of a writer", 300s);
  for (const Kind& kind : kKinds) {
    auto [ours, theirs] = socket_pair();
    Pipe pipe = MUST(make_pipe());
    const bool is_pipe = std::string_view(kind.name) == "pipe";
    const int fd = is_pipe ? pipe.write.get() : ours.get();
    const ChannelPtr out = channel_on(is_pipe ? std::move(pipe.write) : std::move(ours));
    const Bytes data(4 << 20);
    Background writer([&] { return out->write(data); });
    wait_until_full(fd);
    out->shutdown();
    const auto& written = writer.join();
    REQUIRE_FALSE(written.has_value());
    CHECK(written.error().kind() == ErrorKind::kCancelled);
    CHECK(written.error().message() ==
          std::string("Unable to write to ") + kind.name + ": cancelled");
  }
}

TEST_CASE("Channel: shutdown wakes a reader whose peer writes nothing", "[migration]") {
  const Watchdog watchdog("shutdown of a reader", 300s);
  for (const Kind& kind : kKinds) {
    Ends ends = kind.make();
    std::atomic<bool> started = false;
    Background reader([&] {
      Bytes buffer(1);
      started = true;
      return ends.in->read(buffer);
    });
    while (!started) std::this_thread::yield();
    ends.in->shutdown();
    const auto& read = reader.join();
    REQUIRE_FALSE(read.has_value());
    CHECK(read.error().kind() == ErrorKind::kCancelled);
  }
}

TEST_CASE("Channel: one switch ends all channels that hold it", "[migration]") {
  auto [a, b] = socket_pair();
  auto [c, d] = socket_pair();
  const auto cancel = make_cancel();
  const ChannelPtr first = channel_on(std::move(a), cancel);
  const ChannelPtr second = channel_on(std::move(c), cancel);
  first->shutdown();
  CHECK(second->write(Bytes(1)).error().kind() == ErrorKind::kCancelled);
}

TEST_CASE("Channel: a sender over its limit goes on when the limit changes", "[migration]") {
  const Watchdog watchdog("limited sender", 300s);
  const rhea::test::ManualClock clock;  // stands still: only a change can let it go on
  const auto limit = std::make_shared<BandwidthLimit>(clock, 1000);
  auto [ours, theirs] = socket_pair();
  const ChannelPtr out = channel_on(std::move(ours));
  const ChannelPtr in = channel_on(std::move(theirs));
  REQUIRE(out->limit_by(limit).has_value());
  std::atomic<uint64_t> counter = 0;
  out->count_into(&counter);
  Bytes sent = random_bytes(700'000, 2);
  Bytes received(sent.size());
  Background reader([&] { return in->read(received); });
  Background writer([&] { return out->write(sent); });
  while (counter == 0) std::this_thread::yield();
  CHECK(counter < sent.size());  // a piece went, and put the sender into debt
  limit->set(0);
  CHECK(writer.join().has_value());
  CHECK(reader.join().has_value());
  CHECK(sent == received);
}

TEST_CASE("Channel: shutdown wakes a sender that waits for its limit", "[migration]") {
  const Watchdog watchdog("shutdown of a limited sender", 300s);
  const rhea::test::ManualClock clock;
  const auto limit = std::make_shared<BandwidthLimit>(clock, 1);
  Ends ends = socket_ends();
  REQUIRE(ends.out->limit_by(limit).has_value());
  limit->charge(1);
  Background writer([&] { return ends.out->write(Bytes(1)); });
  ends.out->shutdown();
  CHECK(writer.join().error().kind() == ErrorKind::kCancelled);
}

TEST_CASE("Channel: a file that can not be written is named", "[migration]") {
  const ChannelPtr full = channel_on(Fd(::open("/dev/full", O_WRONLY | O_CLOEXEC)));
  const auto written = full->write(Bytes(10));
  REQUIRE_FALSE(written.has_value());
  CHECK(written.error().message() == "Unable to write to file: No space left on device");
}
