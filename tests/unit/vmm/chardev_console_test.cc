#include "tests/support/chardev_fixture.h"

using namespace rhea;
using namespace rhea::vmm;
using namespace rhea::vmm::test;

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

TEST_CASE("Chardev mux: Ctrl-A C goes to the monitor and back", "[chardev]") {
  Fixture f;
  int pair[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  Fd person(pair[1]);
  f.open({.type = Type::kUnixSocket, .fd = pair[0], .mux = true});
  Recorder monitor;
  f.chardev->monitor_end().attach(&monitor);
  const auto type = [&](std::string_view text) {
    f.guest.heard.clear();
    monitor.heard.clear();
    send_text(person, text);
    f.run();
    return f.guest.heard + "|" + monitor.heard;
  };
  CHECK(monitor.heard.empty());
  CHECK(type("a") == "a|");
  f.guest.room = 0;  // it does not read now: what it missed stays its own
  CHECK(type("b\x01"
             "chelp\r") == "|<open>help\r");
  f.guest.room = 4096;
  CHECK(type("\x01\x01") == "b|\x01");
  CHECK(type("\x01"
             "b") == "<break>|");  // a break is the console's
  const auto write_monitor = [&](std::string_view text) {
    return f.chardev->monitor_end().write(std::as_bytes(std::span(text)));
  };
  CHECK(received(person) == "\r\n");
  CHECK(write_monitor("(m) ") == 4);
  CHECK(f.write("guest") == 5);  // both may print
  CHECK(received(person) == "(m) guest");
  CHECK(type("\x01"
             "cx") == "x|<close>");
  CHECK(type("\x01"
             "c") == "|<open>");
  f.chardev->monitor_end().attach(nullptr);
  CHECK(type("y\x01"
             "cz") == "yz|");
  CHECK_THAT(received(person), Catch::Contains("no monitor on this console"));
}

TEST_CASE("Chardev mux: what was typed for the monitor is served behind Ctrl-A C", "[chardev]") {
  Fixture f;
  int pair[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  Fd person(pair[1]);
  f.open({.type = Type::kUnixSocket, .fd = pair[0], .mux = true});
  Recorder monitor;
  monitor.limited = true;
  monitor.room = 2;
  f.chardev->monitor_end().attach(&monitor);
  f.guest.heard.clear();
  send_text(person,
            "\x01"
            "cabc\x01"
            "cz");
  f.run();
  CHECK(monitor.heard == "<open>ab");
  CHECK(f.guest.heard == "z");
  monitor.room = 1;
  f.chardev->monitor_end().accept_input();
  f.run();
  CHECK(monitor.heard == "<open>abc");  // and is not through with it
  monitor.room = 1;
  f.chardev->monitor_end().accept_input();
  f.run();
  CHECK(monitor.heard == "<open>abc<close>");
}

TEST_CASE("Chardev mux: a monitor alone is in front, and its client's end is told", "[chardev]") {
  Fixture f;
  int pair[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  Fd person(pair[1]);
  f.open({.type = Type::kUnixSocket, .fd = pair[0], .mux = true});
  f.chardev->attach(nullptr);
  Recorder monitor;
  f.chardev->monitor_end().attach(&monitor);
  CHECK(monitor.heard == "<open>");
  send_text(person,
            "a\x01"
            "cb");  // there is nobody to go to
  f.run();
  CHECK(monitor.heard == "<open>ab");
  person.reset();
  f.run();
  CHECK(monitor.heard == "<open>ab<close>");
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
  append_json(text, *table.find("query-chardev")->run(Json::object()));
  CHECK(text == "[{\"frontend-open\": true, \"filename\": \"null\", \"label\": \"serial0\"}]");
}

TEST_CASE("QMP over a socket: 0600, half-closed clients, floods and a death mid-line",
          "[chardev][qmp]") {
  Fixture f;
  rhea::test::FakeVm vm;
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
