#include <fcntl.h>
#include <sys/resource.h>

#include <array>

#include "tests/support/chardev_fixture.h"
#include "tests/support/passed_fd.h"

using namespace rhea;
using namespace rhea::vmm;
using namespace rhea::vmm::test;
using rhea::test::PassedFd;
using rhea::test::send_with_fds;

namespace {

/// A frontend that writes down what it hears, each read in brackets, and keeps what it is passed.
class Taker final : public devices::CharFrontend {
 public:
  size_t can_receive() override { return 4096; }
  void receive(std::span<const std::byte> data) override {
    heard.append("[").append(reinterpret_cast<const char*>(data.data()), data.size()) += ']';
  }
  void receive_fds(std::vector<Fd> fds) override {
    heard += fmt::format("<{} fds>", fds.size());
    for (Fd& fd : fds) taken.push_back(std::move(fd));
  }

  std::string heard;
  std::vector<Fd> taken;
};

/// A character device on one end of a socket pair; the test has the other.
struct PairFixture : Fixture {
  PairFixture() {
    std::array<int, 2> ends{};
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0);
    peer = Fd(ends[0]);
    open({.type = Type::kUnixSocket, .fd = ends[1]});
  }
  void use(devices::CharFrontend& frontend) const {
    chardev->attach(nullptr);
    chardev->attach(&frontend);
  }
  void pass(std::string_view text, std::vector<int> numbers) const {
    send_with_fds(peer.get(), text, numbers);
  }

  Fd peer;
};

/// As text, without the bounds of reads.
std::string joined(std::string heard) {
  std::erase_if(heard, [](char c) { return c == '[' || c == ']'; });
  return heard;
}

}  // namespace

TEST_CASE("Chardev: descriptors come before the bytes they were passed with", "[chardev][fds]") {
  Taker taker;
  PairFixture f;
  f.use(taker);
  PassedFd first, second;
  f.pass("abc", {first.number(), second.number()});
  f.run();
  CHECK(joined(taker.heard) == "<2 fds>abc");
  REQUIRE(taker.taken.size() == 2);
  CHECK(first.is(taker.taken[0].get()));
  CHECK(second.is(taker.taken[1].get()));
  CHECK((::fcntl(taker.taken[0].get(), F_GETFD) & FD_CLOEXEC) != 0);
}

TEST_CASE("Chardev: descriptors come with their message, not with those before", "[chardev][fds]") {
  Taker taker;
  PairFixture f;
  f.use(taker);
  PassedFd first, second;
  // All of it is in the socket before the first read.
  send_text(f.peer, "before");
  f.pass("one", {first.number()});
  f.pass("two", {second.number()});
  send_text(f.peer, "after");
  f.run();
  CHECK(joined(taker.heard) == "before<1 fds>one<1 fds>twoafter");
  REQUIRE(taker.taken.size() == 2);
  CHECK(first.is(taker.taken[0].get()));
  CHECK(second.is(taker.taken[1].get()));
}

TEST_CASE("Chardev: without descriptors all that is there is one read", "[chardev][fds]") {
  Taker taker;
  PairFixture f;
  f.use(taker);
  send_text(f.peer, "one");
  send_text(f.peer, "two");
  f.run();
  CHECK(taker.heard == "[onetwo]");
}

TEST_CASE("Chardev: of more than sixteen descriptors the first are taken", "[chardev][fds]") {
  Taker taker;
  PairFixture f;
  f.use(taker);
  std::array<PassedFd, 20> passed;
  std::vector<int> numbers;
  for (const PassedFd& one : passed) numbers.push_back(one.number());
  f.pass("x", numbers);
  f.run();
  CHECK(joined(taker.heard) == "<16 fds>x");
  for (PassedFd& one : passed) one.close_own();
  for (size_t i = 0; i < passed.size(); ++i) CHECK(passed[i].is_open() == (i < 16));
  taker.taken.clear();
  for (const PassedFd& one : passed) CHECK_FALSE(one.is_open());
}

TEST_CASE("Chardev: a process that may open nothing more hears the bytes", "[chardev][fds]") {
  Taker taker;
  PairFixture f;
  f.use(taker);
  PassedFd passed;
  f.pass("x", {passed.number()});
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
  const rlimit none{.rlim_cur = 0, .rlim_max = before.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &none) == 0);
  f.run();
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
  CHECK(joined(taker.heard) == "x");
  passed.close_own();
  CHECK_FALSE(passed.is_open());
}

TEST_CASE("Chardev: a frontend without use for descriptors closes them", "[chardev][fds]") {
  PairFixture f;
  PassedFd passed;
  f.pass("abc", {passed.number()});
  passed.close_own();
  CHECK(passed.is_open());  // in the socket
  f.run();
  CHECK(f.guest.heard == "<open>abc");
  CHECK_FALSE(passed.is_open());
}

TEST_CASE("Chardev: descriptors that nobody read go with the device", "[chardev][fds]") {
  PairFixture f;
  f.guest.room = 0;
  PassedFd passed;
  f.pass("abc", {passed.number()});
  passed.close_own();
  f.run();
  CHECK(passed.is_open());
  f.chardev.reset();
  CHECK_FALSE(passed.is_open());
}

TEST_CASE("Chardev mux: descriptors are closed, and the bytes arrive", "[chardev][fds]") {
  Fixture f;
  f.open(
      {.type = Type::kUnixSocket, .path = f.path("s"), .server = true, .wait = false, .mux = true});
  const Fd peer = connect_to(f.path("s"));
  PassedFd passed;
  send_with_fds(peer.get(), "abc", std::array{passed.number()});
  passed.close_own();
  f.run();
  CHECK(f.guest.heard == "<open>abc");
  CHECK_FALSE(passed.is_open());
}
