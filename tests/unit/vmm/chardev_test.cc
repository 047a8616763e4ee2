#include "vmm/chardev/chardev.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/fake_vm.h"
#include "tests/support/watchdog.h"
#include "util/bql.h"
#include "vmm/chardev/mux_chardev.h"
#include "vmm/chardev/query_chardev.h"
#include "vmm/chardev/stream_chardev.h"
#include "vmm/qmp/machine_commands.h"
#include "vmm/qmp/server.h"

using namespace rhea;
using namespace rhea::vmm;

namespace {

using Type = ChardevConfig::Type;

/// ChardevConfig with defaults for all members: GCC wants all or none in a braced list.
struct Config {
  Type type = Type::kNull;
  std::string path{};
  std::string host{};
  uint16_t port = 0;
  std::optional<int> fd{};
  bool server = false, wait = true, mux = false;

  operator ChardevConfig() const {
    ChardevConfig config;
    config.type = type;
    config.id = "serial0";
    config.path = path;
    config.host = host;
    config.port = port;
    config.fd = fd;
    config.server = server;
    config.wait = wait;
    config.mux = mux;
    return config;
  }
};

/// A frontend that writes down what it hears.
class Recorder final : public devices::CharFrontend {
 public:
  size_t can_receive() override { return room; }
  void receive(std::span<const std::byte> data) override {
    heard.append(reinterpret_cast<const char*>(data.data()), data.size());
    if (limited) room -= data.size();
  }
  void event(devices::CharEvent event) override {
    heard += event == devices::CharEvent::kOpened   ? "<open>"
             : event == devices::CharEvent::kClosed ? "<close>"
                                                    : "<break>";
  }
  void can_write() override { ++rooms; }

  size_t room = 4096;
  bool limited = false;
  std::string heard;
  int rooms = 0;
};

/// A folder of its own, the service context, and the BQL.
struct Fixture {
  Fixture() {
    char name[] = "/tmp/rhea-chardev-XXXXXX";
    folder = ::mkdtemp(name);
  }
  ~Fixture() {
    chardev.reset();
    std::filesystem::remove_all(folder);
  }
  std::string path(const char* name) const { return folder + "/" + name; }

  void open(const Config& config, ChardevHooks hooks = {}) {
    auto made = make_chardev(config, *context, std::move(hooks));
    if (!made.has_value()) FAIL(made.error().message());
    chardev = *std::move(made);
    chardev->attach(&guest);
  }
  void serve_unix(const char* name = "s") {
    open({.type = Type::kUnixSocket, .path = path(name), .server = true, .wait = false});
  }
  /// Why the device can not be made.
  std::string refusal(const Config& config) {
    auto made = make_chardev(config, *context);
    return made.has_value() ? "none" : made.error().message();
  }
  size_t write(std::string_view text) { return chardev->write(std::as_bytes(std::span(text))); }
  /// Serves the loop until nothing is left to do.
  void run() const {
    while (context->poll(PollMode::kNonBlocking)) {
    }
  }
  void run_until_heard(std::string_view text) const {
    while (guest.heard.find(text) == std::string::npos) context->poll(PollMode::kBlocking);
  }

  test::Watchdog watchdog{"a character device", std::chrono::seconds(60)};
  BqlGuard bql_guard;
  std::unique_ptr<AioContext> context = AioContext::create("service").value();
  std::string folder;
  Recorder guest;
  std::unique_ptr<Chardev> chardev;
};

Fd connect_to(const std::string& path) {
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  REQUIRE(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  return fd;
}

void send_text(const Fd& fd, std::string_view text) { REQUIRE(write_all(fd.get(), text)); }

/// What is there to read, without waiting.
std::string received(const Fd& fd) {
  std::string text;
  char buffer[65536];
  for (;;) {
    const ssize_t n = ::recv(fd.get(), buffer, sizeof buffer, MSG_DONTWAIT);
    if (n <= 0) return text;
    text.append(buffer, static_cast<size_t>(n));
  }
}

std::string content(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

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

TEST_CASE("Chardev pty: a guest does not stall on it, and who opens it is heard", "[chardev]") {
  Fixture f;
  f.open({.type = Type::kPty});
  REQUIRE(f.chardev->description().starts_with("pty:/dev/pts/"));
  const std::string path = f.chardev->description().substr(4);
  for (int i = 0; i < 64; ++i) REQUIRE(f.write(std::string(4096, 'x')) == 4096);
  CHECK(f.guest.heard.empty());

  for (int i = 0; i < 2; ++i) {
    f.guest.heard.clear();
    Fd terminal(::open(path.c_str(), O_RDWR | O_NOCTTY | O_NONBLOCK));
    REQUIRE(terminal);
    f.run_until_heard("<open>");
    send_text(terminal, "\x03\r");  // raw: neither a signal nor a line end
    f.run_until_heard("\x03\r");
    CHECK(f.write("a\n") == 2);
    char buffer[16];
    ssize_t n = -1;
    while ((n = ::read(terminal.get(), buffer, sizeof buffer)) < 0) REQUIRE(errno == EAGAIN);
    CHECK(std::string(buffer, static_cast<size_t>(n)) == "a\n");
    terminal.reset();
    f.run_until_heard("<close>");
    CHECK(f.write(std::string(1 << 20, 'x')) == 1 << 20);
  }
}

TEST_CASE("Chardev mux: Ctrl-A keys are its own, all else is the guest's", "[chardev]") {
  Fixture f;
  int pair[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  const Fd person(pair[1]);
  int quits = 0;
  f.open({.type = Type::kUnixSocket, .fd = pair[0], .mux = true}, {.quit = [&] { ++quits; }});
  const auto type = [&](std::string_view text) {
    f.guest.heard.clear();
    send_text(person, text);
    f.run();
    return f.guest.heard;
  };
  CHECK(f.guest.heard == "<open>");
  CHECK(f.chardev->description() == "mux");
  CHECK(type("ls\r") == "ls\r");
  CHECK(type("a\x01\x01z") == "a\x01z");
  CHECK(type("a\x01") == "a");
  CHECK(type("bc") == "<break>c");
  CHECK(type("\x01?") == "");
  const std::string help = received(person);
  for (const char* key : {"Ctrl-A X", "Ctrl-A H", "Ctrl-A B", "Ctrl-A C", "Ctrl-A Ctrl-A"}) {
    CHECK(help.find(key) != std::string::npos);
  }
  CHECK(type("\x01h") == "");
  CHECK(received(person) == help);
  CHECK(type("\x01"
             "c") == "");
  CHECK(received(person).find("no monitor on this console") != std::string::npos);
  CHECK(type("\x01q") == "");
  CHECK(quits == 0);
  CHECK(type("\x01x") == "");
  CHECK(quits == 1);
  CHECK(f.write("out") == 3);
}

TEST_CASE("Chardev mux: the keys work while the guest does not read", "[chardev]") {
  Fixture f;
  int pair[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  const Fd person(pair[1]);
  int quits = 0;
  f.guest.room = 0;
  f.open({.type = Type::kUnixSocket, .fd = pair[0], .mux = true}, {.quit = [&] { ++quits; }});
  send_text(person, "is anybody there?\x01x");
  f.run();
  CHECK(quits == 1);
  CHECK(f.guest.heard == "<open>");
  f.guest.room = 5;
  f.guest.limited = true;
  f.chardev->accept_input();
  f.run();
  CHECK(f.guest.heard == "<open>is an");
}

TEST_CASE("query-chardev: lists label, QEMU's name and whether the inside is connected",
          "[chardev][qmp]") {
  Fixture f;
  f.open({.type = Type::kNull});
  QmpCommandTable table;
  add_chardev_commands(table, [&] { return std::vector<const Chardev*>{f.chardev.get()}; });
  std::string text;
  append_json(text, *table.find("query-chardev")->handler(Json::object()));
  CHECK(text == "[{\"frontend-open\": true, \"filename\": \"null\", \"label\": \"serial0\"}]");
}

TEST_CASE("QMP over a socket: 0600, half-closed clients, floods and a death mid-line",
          "[chardev][qmp]") {
  Fixture f;
  test::FakeVm vm;
  QmpCommandTable table;
  add_machine_commands(table, vm);
  bql.assert_held();
  const Config config{
      .type = Type::kUnixSocket, .path = f.path("q"), .server = true, .wait = false};
  auto chardev = MUST(make_chardev(config, *f.context));
  QmpServer server(*f.context, vm, std::move(table), QmpVersion{.package = "rhea-0"});
  server.add_monitor(*chardev);

  Fd client = connect_to(f.path("q"));
  send_text(client, "{\"execute\":\"qmp_capabilities\"}{\"exec");
  f.run();
  CHECK(received(client).ends_with("{\"return\": {}}\r\n"));
  client.reset();
  f.run();

  client = connect_to(f.path("q"));
  std::string flood = "{\"execute\":\"qmp_capabilities\"}\n";
  for (int i = 0; i < 500; ++i) flood += "{\"execute\":\"query-name\"}\n";
  send_text(client, flood);
  REQUIRE(::shutdown(client.get(), SHUT_WR) == 0);  // as `... | nc -N -U socket` does
  f.run();
  std::string answers;
  while (chardev->description().starts_with("unix:")) {
    answers += received(client);
    f.run();
  }
  answers += received(client);
  size_t count = 0;
  for (size_t at = 0; (at = answers.find("{\"return\"", at)) != answers.npos; ++at) ++count;
  CHECK(count == 501);

  client = connect_to(f.path("q"));
  const std::string endless(1 << 16, 'x');
  send_text(client, "{\"execute\":\"qmp_capabilities\"}{\"a\":\"");
  for (int i = 0; i < 32; ++i) {
    send_text(client, endless);
    f.run();
  }
  send_text(client, "\"}{\"execute\":\"quit\"}");
  f.run();
  const std::string last = received(client);
  CHECK(last.find("JSON message size limit exceeded") != last.npos);
  CHECK(last.ends_with("\"host-qmp-quit\"}}\r\n{\"return\": {}}\r\n"));
  CHECK(vm.quit_);
}
