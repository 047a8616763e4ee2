#include "tests/support/chardev_fixture.h"

using namespace rhea;
using namespace rhea::vmm;
using namespace rhea::vmm::test;

TEST_CASE("Chardev null: takes everything", "[chardev]") {
  Fixture f;
  f.open({.type = Type::kNull});
  CHECK(f.guest.heard == "<open>");
  CHECK(f.write(std::string(1 << 20, 'x')) == 1 << 20);
  CHECK(f.chardev->description() == "null");
}

TEST_CASE("Chardev file: empties the file and writes to it", "[chardev]") {
  Fixture f;
  std::ofstream(f.path("out")) << "an older and longer run";
  f.open({.type = Type::kFile, .path = f.path("out")});
  CHECK(f.write("hello\n") == 6);
  CHECK(content(f.path("out")) == "hello\n");
  CHECK(f.chardev->description() == "file");
  CHECK(f.refusal({.type = Type::kFile, .path = f.path("no/such")}) ==
        "Unable to open '" + f.path("no/such") + "': No such file or directory");
}

TEST_CASE("Chardev unix server: the socket is its owner's alone, and goes with it", "[chardev]") {
  Fixture f;
  const mode_t before = ::umask(0);
  f.serve_unix();
  ::umask(before);
  struct stat status{};
  REQUIRE(::stat(f.path("s").c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
  CHECK(f.chardev->description() == "disconnected:unix:" + f.path("s") + ",server=on");
  f.chardev.reset();
  CHECK_FALSE(std::filesystem::exists(f.path("s")));
}

TEST_CASE("Chardev unix server: a stale socket is replaced, a file is not", "[chardev]") {
  Fixture f;
  f.serve_unix();
  auto first = std::move(f.chardev);
  f.serve_unix();
  const Fd peer = connect_to(f.path("s"));
  f.run();
  CHECK(f.guest.heard == "<open>");
  first.reset();  // and does not take the socket of the second along
  CHECK(std::filesystem::exists(f.path("s")));

  std::ofstream(f.path("precious")) << "data";
  CHECK(f.refusal({.type = Type::kUnixSocket, .path = f.path("precious"), .server = true}) ==
        "Failed to bind socket to " + f.path("precious") + ": it exists and is no socket");
  CHECK(content(f.path("precious")) == "data");
}

TEST_CASE("Chardev unix server: bytes go both ways, peer after peer", "[chardev]") {
  Fixture f;
  f.serve_unix();
  CHECK(f.write("into the void") == 13);
  for (int i = 0; i < 3; ++i) {
    f.guest.heard.clear();
    Fd peer = connect_to(f.path("s"));
    send_text(peer, "abc");
    f.run();
    CHECK(f.guest.heard == "<open>abc");
    CHECK(f.chardev->description() == "unix:" + f.path("s") + ",server=on");
    CHECK(f.write("def") == 3);
    CHECK(received(peer) == "def");
    send_text(peer, "last words");
    peer.reset();
    f.run();
    CHECK(f.guest.heard == "<open>abclast words<close>");
  }
}

TEST_CASE("Chardev unix server: a second peer waits until the first has gone", "[chardev]") {
  Fixture f;
  f.serve_unix();
  Fd first = connect_to(f.path("s"));
  const Fd second = connect_to(f.path("s"));
  send_text(second, "two");
  f.run();
  CHECK(f.guest.heard == "<open>");
  send_text(first, "one");
  f.run();
  first.reset();
  f.run();
  CHECK(f.guest.heard == "<open>one<close><open>two");
}

TEST_CASE("Chardev unix server: a dead peer whose input nobody reads gives way", "[chardev]") {
  Fixture f;
  f.serve_unix();
  f.guest.room = 0;
  Fd first = connect_to(f.path("s"));
  send_text(first, "unread");
  f.run();
  first.reset();
  f.run();
  CHECK(f.guest.heard == "<open>");
  const Fd second = connect_to(f.path("s"));
  f.run();
  CHECK(f.guest.heard == "<open><close><open>");
}

TEST_CASE("Chardev: input waits for room in the frontend", "[chardev]") {
  Fixture f;
  f.serve_unix();
  f.guest.limited = true;
  f.guest.room = 2;
  const Fd peer = connect_to(f.path("s"));
  send_text(peer, "abcdef");
  f.run();
  CHECK(f.guest.heard == "<open>ab");
  f.guest.room = 3;
  f.run();
  CHECK(f.guest.heard == "<open>ab");
  f.chardev->accept_input();
  f.run();
  CHECK(f.guest.heard == "<open>abcde");
}

TEST_CASE("Chardev: a peer that does not read costs bounded memory and no time", "[chardev]") {
  Fixture f;
  f.serve_unix();
  Fd peer = connect_to(f.path("s"));
  f.run();
  const std::string block(4096, 'x');
  size_t taken = 0;
  while (const size_t n = f.write(block)) taken += n;
  CHECK(f.write(block) == 0);
  f.run();
  CHECK(f.guest.rooms == 0);

  SECTION("what was taken arrives once it reads, and the frontend hears of room") {
    std::string all;
    while (all.size() < taken) {
      all += received(peer);
      f.run();
    }
    CHECK(all == std::string(taken, 'x'));
    CHECK(f.guest.rooms == 1);
    CHECK(f.write("more") == 4);
  }
  SECTION("when it goes, the frontend may write on, into the void") {
    peer.reset();
    f.run();
    CHECK(f.guest.heard == "<open><close>");
    CHECK(f.guest.rooms == 1);
    CHECK(f.write(block) == block.size());
  }
}

TEST_CASE("Chardev: writing to a peer that went is no signal and tells on the next turn",
          "[chardev]") {
  Fixture f;
  f.serve_unix();
  f.guest.room = 0;
  Fd peer = connect_to(f.path("s"));
  f.run();
  peer.reset();
  CHECK(f.write("x") == 1);
  CHECK(f.guest.heard == "<open>");
  f.run();
  CHECK(f.guest.heard == "<open><close>");
}

TEST_CASE("Chardev unix client: connects at once or says why not", "[chardev]") {
  Fixture f;
  CHECK(f.refusal({.type = Type::kUnixSocket, .path = f.path("nobody")}) ==
        "Failed to connect to '" + f.path("nobody") + "': No such file or directory");
  CHECK(f.refusal({.type = Type::kUnixSocket, .path = std::string(200, 'x')})
            .ends_with("is too long: it must be less than 108 bytes"));
  f.serve_unix();
  auto server = std::move(f.chardev);
  f.open({.type = Type::kUnixSocket, .path = f.path("s"), .wait = false});
  CHECK(f.guest.heard == "<open>");
  CHECK(f.chardev->description() == "unix:" + f.path("s"));
}

TEST_CASE("Chardev unix server: wait holds the start until a peer came", "[chardev]") {
  Fixture f;
  // The listener is ours, so that the peer can be there before the device is.
  f.serve_unix();
  f.chardev->attach(nullptr);
  Fd listener(::socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = f.path("l");
  std::memcpy(address.sun_path, path.data(), path.size());
  REQUIRE(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  REQUIRE(::listen(listener.get(), 1) == 0);
  const Fd peer = connect_to(path);
  f.guest.heard.clear();
  f.open({.type = Type::kUnixSocket, .fd = listener.release(), .server = true, .wait = true});
  CHECK(f.guest.heard == "<open>");
  CHECK(f.chardev->description() == "unix:" + path + ",server=on");
}

TEST_CASE("Chardev socket: an inherited descriptor must be what server= says", "[chardev]") {
  Fixture f;
  int pair[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  const Fd peer(pair[1]);
  CHECK(f.refusal({.type = Type::kUnixSocket, .fd = pair[0], .server = true, .wait = false}) ==
        fmt::format("File descriptor '{}' is no listening stream socket", pair[0]));
  f.open({.type = Type::kUnixSocket, .fd = pair[0]});
  send_text(peer, "hi");
  f.run();
  CHECK(f.guest.heard == "<open>hi");
  CHECK((::fcntl(pair[0], F_GETFD) & FD_CLOEXEC) != 0);

  const Fd pipe_end = Fd(MUST(make_pipe()).read.release());
  CHECK(f.refusal({.type = Type::kUnixSocket, .fd = pipe_end.get()}) ==
        fmt::format("File descriptor '{}' is not a socket", pipe_end.get()));
  CHECK(f.refusal({.type = Type::kUnixSocket, .fd = 987}) ==
        "cannot use file descriptor '987': Bad file descriptor");
}

TEST_CASE("Chardev tcp: serves on the loopback and names both ends", "[chardev]") {
  Fixture f;
  f.open({.type = Type::kTcpSocket, .host = "127.0.0.1", .server = true, .wait = false});
  const std::string waiting = f.chardev->description();
  REQUIRE(waiting.starts_with("disconnected:tcp:127.0.0.1:"));
  const auto port = static_cast<uint16_t>(std::stoi(waiting.substr(27)));
  auto server = std::move(f.chardev);
  Recorder other;
  server->attach(nullptr);
  server->attach(&other);
  f.open({.type = Type::kTcpSocket, .host = "127.0.0.1", .port = port, .wait = false});
  CHECK(f.write("over tcp") == 8);
  while (other.heard != "<open>over tcp") f.context->poll(PollMode::kBlocking);
  CHECK(server->description().starts_with(
      fmt::format("tcp:127.0.0.1:{},server=on <-> 127.0.0.1:", port)));
  CHECK(f.refusal({.type = Type::kTcpSocket, .host = "no-such-host.invalid", .port = 1})
            .starts_with("address resolution failed for no-such-host.invalid:1: "));
}
