// What the tests of character devices share: a context, a recorder for a guest, sockets.
#pragma once

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
#include "vmm/chardev/chardev.h"
#include "vmm/chardev/mux_chardev.h"
#include "vmm/chardev/query_chardev.h"
#include "vmm/chardev/stream_chardev.h"
#include "vmm/qmp/machine_commands.h"
#include "vmm/qmp/server.h"

namespace rhea::vmm::test {

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

  rhea::test::Watchdog watchdog{"a character device", std::chrono::seconds(60)};
  BqlGuard bql_guard;
  std::unique_ptr<AioContext> context = AioContext::create("service").value();
  std::string folder;
  Recorder guest;
  std::unique_ptr<Chardev> chardev;
};

inline Fd connect_to(const std::string& path) {
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  REQUIRE(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  return fd;
}

inline void send_text(const Fd& fd, std::string_view text) { REQUIRE(write_all(fd.get(), text)); }

/// What is there to read, without waiting.
inline std::string received(const Fd& fd) {
  std::string text;
  char buffer[65536];
  for (;;) {
    const ssize_t n = ::recv(fd.get(), buffer, sizeof buffer, MSG_DONTWAIT);
    if (n <= 0) return text;
    text.append(buffer, static_cast<size_t>(n));
  }
}

inline std::string content(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace rhea::vmm::test
