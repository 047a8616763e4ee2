#include "migration/connect.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/support/temp_dir.h"
#include "tests/support/watchdog.h"
#include "tests/unit/migration/pairs.h"
#include "util/thread.h"

using namespace rhea;
using namespace rhea::migration;
using namespace rhea::migration::test;
using namespace std::chrono_literals;
using rhea::test::TempDir;
using rhea::test::Watchdog;

namespace {

std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

Address address(const std::string& uri) { return MUST(parse_address(uri)); }

ChannelPtr outgoing(const std::string& uri) {
  return MUST(connect_to(address(uri), make_cancel(), {}));
}
ChannelPtr incoming(const std::string& uri) {
  return MUST(receive_from(address(uri), make_cancel(), {}));
}
std::string error_of(const std::string& uri) {
  const auto channel = connect_to(address(uri), make_cancel(), {});
  return channel ? "(connected)" : channel.error().message();
}

std::string read_text(Channel& channel, size_t size) {
  std::string text(size, '\0');
  const auto done = channel.read(std::as_writable_bytes(std::span(text)));
  return done ? text : done.error().message();
}

std::string contents(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

ChannelPtr accept_one(Listener& listener) {
  pollfd ready{.fd = listener.fd(), .events = POLLIN, .revents = 0};
  RHEA_CHECK(::poll(&ready, 1, 10'000) == 1);
  return MUST(listener.accept(make_cancel()));
}

void both_ways(const std::string& uri) {
  const auto listener = MUST(Listener::create(address(uri)));
  CHECK(MUST(listener->accept(make_cancel())) == nullptr);
  const ChannelPtr source = outgoing(listener->address().text());
  const ChannelPtr destination = accept_one(*listener);
  CHECK(source->two_way());
  REQUIRE(source->write(bytes("pages")).has_value());
  CHECK(read_text(*destination, 5) == "pages");
  REQUIRE(destination->write(bytes("ready")).has_value());
  CHECK(read_text(*source, 5) == "ready");
}

}  // namespace

TEST_CASE("Listener: a tcp port of 0 becomes one that can be connected to", "[migration]") {
  const auto listener = MUST(Listener::create(address("tcp:127.0.0.1:0")));
  CHECK(listener->address().host == "127.0.0.1");
  CHECK(listener->address().port != "0");
  both_ways("tcp:127.0.0.1:0");
}

TEST_CASE("Listener: IPv6 in brackets works where the host has it", "[migration]") {
  const auto listener = Listener::create(address("tcp:[::1]:0"));
  if (!listener) {
    WARN("SKIP: no IPv6 here: " << listener.error().message());
    return;
  }
  both_ways("tcp:[::1]:0");
}

TEST_CASE("Listener: a unix path left by a dead instance is taken over, and goes at the end",
          "[migration]") {
  const TempDir folder;
  const std::string path = folder.file("mig.sock");
  both_ways("unix:" + path);
  CHECK(::access(path.c_str(), F_OK) != 0);
  {
    const auto left_behind = MUST(Listener::create(address("unix:" + folder.file("other"))));
    REQUIRE(::rename(folder.file("other").c_str(), path.c_str()) == 0);
  }
  both_ways("unix:" + path);
}

TEST_CASE("Listener: a file that is no socket is not removed for one", "[migration]") {
  const TempDir folder;
  const std::string path = folder.file("precious");
  std::ofstream(path) << "data";
  const auto listener = Listener::create(address("unix:" + path));
  REQUIRE_FALSE(listener.has_value());
  CHECK(listener.error().message() == "Failed to listen on '" + path + "': Address already in use");
  CHECK(contents(path) == "data");
}

TEST_CASE("connect_to: who does not answer is named in QEMU's words", "[migration]") {
  CHECK(error_of("unix:/nonexistent/nope.sock") ==
        "Failed to connect to '/nonexistent/nope.sock': No such file or directory");
  // A port that was bound and is free again.
  const std::string uri = MUST(Listener::create(address("tcp:127.0.0.1:0")))->address().text();
  CHECK(error_of(uri) == "Failed to connect to '" + uri.substr(4) + "': Connection refused");
}

TEST_CASE("connect_to: a thrown switch ends it while the listener's queue is full", "[migration]") {
  const Watchdog watchdog("cancelled connect", 300s);
  const TempDir folder;
  const std::string uri = "unix:" + folder.file("s");
  const auto listener = MUST(Listener::create(address(uri)));
  // Nobody accepts: sooner or later the queue is full, and a connect waits.
  std::vector<ChannelPtr> queued;
  std::atomic<size_t> connected = 0;
  std::shared_ptr<Cancel> cancel = make_cancel();
  Result<void> last;
  Thread thread = MUST(Thread::start("test", [&] {
    for (;;) {
      auto channel = connect_to(address(uri), cancel, {});
      if (!channel) {
        last = std::move(channel).error();
        return;
      }
      queued.push_back(std::move(*channel));
      ++connected;
    }
  }));
  while (connected < 257) std::this_thread::yield();
  cancel->cancel();
  thread.join();
  REQUIRE_FALSE(last.has_value());
  CHECK(last.error().kind() == ErrorKind::kCancelled);
}

TEST_CASE("file: the stream lies behind the offset, and what was there before stays",
          "[migration]") {
  const TempDir folder;
  const std::string path = folder.file("image");
  std::ofstream(path) << "header--old stream, which was longer";
  const std::string uri = "file:" + path + ",offset=8";
  const ChannelPtr out = outgoing(uri);
  CHECK_FALSE(out->two_way());
  REQUIRE(out->write(bytes("stream")).has_value());
  REQUIRE(out->finish().has_value());
  CHECK(contents(path) == "header--stream");

  const ChannelPtr in = incoming(uri);
  CHECK(read_text(*in, 6) == "stream");
  CHECK(read_text(*in, 1) == "Unable to read from file: the stream ended 1 bytes early");
}

TEST_CASE("file: one that can not be opened is named", "[migration]") {
  CHECK(error_of("file:/nonexistent/x") ==
        "Failed to open '/nonexistent/x': No such file or directory");
}

TEST_CASE("exec: the command has the stream, and its failure is reported", "[migration]") {
  const Watchdog watchdog("exec", 300s);
  const TempDir folder;
  const std::string path = folder.file("saved");
  const ChannelPtr out = outgoing("exec:cat > " + path);
  REQUIRE(out->write(bytes("stream")).has_value());
  REQUIRE(out->finish().has_value());
  CHECK(contents(path) == "stream");

  const ChannelPtr in = incoming("exec:cat " + path);
  CHECK(read_text(*in, 6) == "stream");
  CHECK(in->finish().has_value());

  const ChannelPtr failing = outgoing("exec:cat > /dev/null; exit 3");
  const auto finished = failing->finish();
  REQUIRE_FALSE(finished.has_value());
  CHECK(finished.error().message() == "'cat > /dev/null; exit 3' failed with status 3");
  const auto killed = outgoing("exec:kill -9 $$")->finish();
  REQUIRE_FALSE(killed.has_value());
  CHECK(killed.error().message() == "'kill -9 $$' was killed by signal 9");
}

TEST_CASE("exec: a command that never ends is killed with what it started", "[migration]") {
  const Watchdog watchdog("endless exec", 300s);
  SECTION("by the switch, while its end is waited for") {
    const auto cancel = make_cancel();
    const ChannelPtr out = MUST(connect_to(address("exec:sleep 1000; true"), cancel, {}));
    cancel->cancel();
    CHECK(out->finish().error().kind() == ErrorKind::kCancelled);
  }
  SECTION("by the channel's end") { outgoing("exec:sleep 1000; true").reset(); }
  // No child is left: neither running nor as a zombie.
  CHECK(::waitpid(-1, nullptr, WNOHANG) == -1);
}

TEST_CASE("fd: a number is taken as it is, a name is asked for", "[migration]") {
  auto [ours, theirs] = socket_pair();
  const std::string number = std::to_string(ours.get());
  const ChannelPtr by_number = outgoing("fd:" + number);
  CHECK(ours.release() >= 0);
  CHECK(by_number->two_way());
  const TakeFd take = [&](std::string_view name) -> Result<Fd> {
    if (name == "migfd") return std::move(theirs);
    return fail(ErrorKind::kNotFound, "File descriptor named '{}' has not been found", name);
  };
  const ChannelPtr by_name = MUST(receive_from(address("fd:migfd"), make_cancel(), take));
  REQUIRE(by_number->write(bytes("x")).has_value());
  CHECK(read_text(*by_name, 1) == "x");

  CHECK(connect_to(address("fd:other"), make_cancel(), take).error().message() ==
        "File descriptor named 'other' has not been found");
  CHECK(error_of("fd:other") == "File descriptor named 'other' has not been found");
  CHECK(error_of("fd:1000000") == "file descriptor 1000000: Bad file descriptor");
  CHECK(error_of("fd:3x") == "Invalid file descriptor number '3x'");
}
