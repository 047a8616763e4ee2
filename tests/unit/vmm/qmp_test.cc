#include <catch2/catch.hpp>
#include <cerrno>
#include <memory>
#include <regex>
#include <string>

#include "tests/support/fake_chardev.h"
#include "tests/support/fake_vm.h"
#include "tests/support/size.h"
#include "vmm/qmp/machine_commands.h"
#include "vmm/qmp/server.h"

using namespace rhea;
using namespace rhea::vmm;

namespace {

constexpr std::string_view kGreeting =
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": 2, \"major\": 7}, \"package\": "
    "\"rhea-1.2.3\"}, \"capabilities\": []}}\r\n";

/// The same with every timestamp's figures replaced by 0.
std::string timeless(const std::string& text) {
  static const std::regex figures(R"re("seconds": \d+, "microseconds": \d+)re");
  return std::regex_replace(text, figures, R"("seconds": 0, "microseconds": 0)");
}

std::string event(const std::string& rest) {
  return "{\"timestamp\": {\"seconds\": 0, \"microseconds\": 0}, \"event\": " + rest + "}\r\n";
}

/// A server with two monitors.
struct Fixture {
  explicit Fixture(QmpLimits limits = {}) {
    QmpCommandTable table;
    add_machine_commands(table, vm);
    table.add({"take",
               {{"id", QmpType::kString},
                {"count", QmpType::kInteger, QmpPresence::kOptional},
                {"force", QmpType::kBoolean, QmpPresence::kOptional}},
               [this](const Json& arguments) {
                 taken = arguments;
                 return qmp_done();
               }});
    bql.assert_held();
    server = std::make_unique<QmpServer>(*context, vm, std::move(table),
                                         QmpVersion{.package = "rhea-1.2.3"}, limits);
    server->add_monitor(a);
    server->add_monitor(b);
  }

  static void open(test::FakeChardev& client) { client.event(devices::CharEvent::kOpened); }
  /// A client past negotiation.
  static void connect(test::FakeChardev& client) {
    open(client);
    client.type("{\"execute\":\"qmp_capabilities\"}");
    REQUIRE(client.take_sent() == std::string(kGreeting) + "{\"return\": {}}\r\n");
  }
  /// The answer of a negotiated client to `text`.
  std::string ask(std::string_view text) {
    if (a.frontend() != nullptr && !connected) connect(a);
    connected = true;
    a.type(text);
    run();
    return timeless(a.take_sent());
  }
  void run() const {
    while (context->poll(PollMode::kNonBlocking)) {
    }
  }

  BqlGuard bql_guard;
  std::unique_ptr<AioContext> context = AioContext::create("service").value();
  test::FakeVm vm;
  test::FakeChardev a, b;
  Json taken;
  bool connected = false;
  std::unique_ptr<QmpServer> server;
};

std::string generic(const std::string& description) {
  return "{\"error\": {\"class\": \"GenericError\", \"desc\": \"" + description + "\"}}\r\n";
}

}  // namespace

TEST_CASE("QMP: the greeting and the negotiation are QEMU's, byte for byte", "[qmp]") {
  Fixture f;
  f.open(f.a);
  CHECK(f.a.take_sent() == kGreeting);
  f.a.type("{\"execute\":\"query-status\"}\n");
  CHECK(f.a.take_sent() ==
        "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"Expecting capabilities "
        "negotiation with 'qmp_capabilities'\"}}\r\n");
  f.a.type("{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]},\"id\":1}\n");
  CHECK(f.a.take_sent() ==
        "{\"id\": 1, \"error\": {\"class\": \"GenericError\", \"desc\": \"Capability oob is not "
        "available\"}}\r\n");
  f.a.type("{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[]}}\n");
  CHECK(f.a.take_sent() == "{\"return\": {}}\r\n");
  f.a.type("{\"execute\":\"qmp_capabilities\"}\n");
  CHECK(f.a.take_sent() ==
        "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"Capabilities negotiation is "
        "already complete, command ignored\"}}\r\n");
}

TEST_CASE("QMP: a disk's error is an event with QEMU's members", "[qmp]") {
  Fixture f;
  f.connect(f.a);
  f.vm.tell([](VmObserver& o) {
    o.disk_error({.drive_id = "",
                  .qdev = "/machine/peripheral/vd0/virtio-backend",
                  .tracks_status = true,
                  .error = {.device = "vd0",
                            .node = "n0",
                            .operation = devices::IoError::Operation::kWrite,
                            .action = devices::OnIoError::kStop,
                            .os_errno = ENOSPC,
                            .reason = "No space left on device"}});
  });
  CHECK(timeless(f.a.take_sent()) ==
        event("\"BLOCK_IO_ERROR\", \"data\": {\"device\": \"\", \"qom-path\": "
              "\"/machine/peripheral/vd0/virtio-backend\", \"node-name\": \"n0\", "
              "\"operation\": \"write\", \"action\": \"stop\", \"nospace\": true, \"reason\": "
              "\"No space left on device\"}"));
}

TEST_CASE("QMP: queries answer QEMU's members in QEMU's order", "[qmp]") {
  Fixture f;
  CHECK(f.ask("{\"execute\":\"query-status\",\"id\":{\"a\":[1,2]}}") ==
        "{\"return\": {\"status\": \"prelaunch\", \"singlestep\": false, \"running\": false}, "
        "\"id\": {\"a\": [1, 2]}}\r\n");
  f.vm.state_ = RunState::kRunning;
  CHECK(f.ask("{\"execute\":\"query-status\"}") ==
        "{\"return\": {\"status\": \"running\", \"singlestep\": false, \"running\": true}}\r\n");
  CHECK(f.ask("{\"execute\":\"query-version\"}") ==
        "{\"return\": {\"qemu\": {\"micro\": 0, \"minor\": 2, \"major\": 7}, \"package\": "
        "\"rhea-1.2.3\"}}\r\n");
  CHECK(f.ask("{\"execute\":\"query-kvm\"}") ==
        "{\"return\": {\"enabled\": true, \"present\": true}}\r\n");
  CHECK(f.ask("{\"execute\":\"query-name\"}") == "{\"return\": {}}\r\n");
  f.vm.name_ = "min";
  CHECK(f.ask("{\"execute\":\"query-name\"}") == "{\"return\": {\"name\": \"min\"}}\r\n");
  CHECK(f.ask("{\"execute\":\"query-uuid\"}") ==
        "{\"return\": {\"UUID\": \"00000000-0000-0000-0000-000000000000\"}}\r\n");
  CHECK(f.ask("{\"execute\":\"query-cpus-fast\"}") == "{\"return\": []}\r\n");
  f.vm.vcpus_ = {{.index = 1, .thread_id = 77, .socket = 1, .core = 0, .thread = 0}};
  CHECK(f.ask("{\"execute\":\"query-cpus-fast\"}") ==
        "{\"return\": [{\"thread-id\": 77, \"props\": {\"core-id\": 0, \"thread-id\": 0, "
        "\"socket-id\": 1}, \"qom-path\": \"/machine/unattached/device[1]\", \"cpu-index\": 1, "
        "\"target\": \"x86_64\"}]}\r\n");
  CHECK(f.ask("{\"execute\":\"query-commands\"}") ==
        "{\"return\": [{\"name\": \"cont\"}, {\"name\": \"human-monitor-command\"}, "
        "{\"name\": \"qmp_capabilities\"}, "
        "{\"name\": \"query-commands\"}, {\"name\": \"query-cpus-fast\"}, "
        "{\"name\": \"query-kvm\"}, {\"name\": \"query-name\"}, {\"name\": \"query-qmp-schema\"}, "
        "{\"name\": \"query-status\"}, {\"name\": \"query-uuid\"}, {\"name\": \"query-version\"}, "
        "{\"name\": \"quit\"}, "
        "{\"name\": \"stop\"}, {\"name\": \"system_powerdown\"}, {\"name\": \"system_reset\"}, "
        "{\"name\": \"take\"}]}\r\n");
}

TEST_CASE("QMP: an event is on the wire before the answer of the command behind it", "[qmp]") {
  Fixture f;
  CHECK(f.ask("{\"execute\":\"stop\",\"id\":2}") ==
        event("\"STOP\"") + "{\"return\": {}, \"id\": 2}\r\n");
  CHECK(f.ask("{\"execute\":\"cont\"}") == event("\"RESUME\"") + "{\"return\": {}}\r\n");
  CHECK(f.ask("{\"execute\":\"system_reset\"}") ==
        event("\"RESET\", \"data\": {\"guest\": false, \"reason\": \"host-qmp-system-reset\"}") +
            "{\"return\": {}}\r\n");
  CHECK(f.ask("{\"execute\":\"system_powerdown\"}") ==
        event("\"POWERDOWN\"") + "{\"return\": {}}\r\n");
  CHECK(f.ask("{\"execute\":\"quit\"}") ==
        event("\"SHUTDOWN\", \"data\": {\"guest\": false, \"reason\": \"host-qmp-quit\"}") +
            "{\"return\": {}}\r\n");
  CHECK(f.vm.quit_);
}

TEST_CASE("QMP: an event of the guest says so", "[qmp]") {
  Fixture f;
  f.connect(f.a);
  f.vm.tell([](VmObserver& o) { o.shutting_down(Cause::kGuestShutdown); });
  CHECK(timeless(f.a.take_sent()) ==
        event("\"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": \"guest-shutdown\"}"));
}

TEST_CASE("QMP: a handler's failure is a GenericError with its text", "[qmp]") {
  Fixture f;
  f.vm.cont_error_ = Error(ErrorKind::kBusy, "Resetting the Virtual Machine is required");
  CHECK(f.ask("{\"execute\":\"cont\"}") == generic("Resetting the Virtual Machine is required"));
}

TEST_CASE("QMP: requests that are none get QEMU's texts", "[qmp]") {
  Fixture f;
  CHECK(f.ask("{\"execute\":\"no-such\"}") ==
        "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"The command no-such has not been "
        "found\"}}\r\n");
  CHECK(f.ask("{bad json}") == generic("JSON parse error, invalid keyword 'bad'"));
  CHECK(f.ask("[1]") == generic("QMP input must be a JSON object"));
  CHECK(f.ask("1\n") == generic("QMP input must be a JSON object"));
  CHECK(f.ask("{}") == generic("QMP input lacks member 'execute'"));
  CHECK(f.ask("{\"execute\":1}") == generic("QMP input member 'execute' must be a string"));
  CHECK(f.ask("{\"foo\":1}") == generic("QMP input member 'foo' is unexpected"));
  CHECK(f.ask("{\"execute\":\"stop\",\"arguments\":[]}") ==
        generic("QMP input member 'arguments' must be an object"));
  CHECK(f.ask("{\"execute\":\"stop\",\"execute\":\"stop\"}") ==
        generic("JSON parse error, duplicate key"));
  CHECK(f.ask("{\"exec-oob\":\"query-status\",\"id\":7}") ==
        "{\"id\": 7, \"error\": {\"class\": \"GenericError\", \"desc\": \"QMP input member "
        "'exec-oob' is unexpected\"}}\r\n");
}

TEST_CASE("QMP: arguments are checked against the schema before the handler sees them", "[qmp]") {
  Fixture f;
  const auto take = [&](const std::string& arguments) {
    return f.ask("{\"execute\":\"take\",\"arguments\":" + arguments + "}");
  };
  CHECK(take("{}") == generic("Parameter 'id' is missing"));
  CHECK(take("{\"id\":1,\"bogus\":1}") ==
        generic("Invalid parameter type for 'id', expected: string"));
  CHECK(take("{\"id\":\"a\",\"bogus\":1}") == generic("Parameter 'bogus' is unexpected"));
  CHECK(take("{\"id\":\"a\",\"count\":1.5}") ==
        generic("Invalid parameter type for 'count', expected: integer"));
  CHECK(take("{\"id\":\"a\",\"force\":1}") ==
        generic("Invalid parameter type for 'force', expected: boolean"));
  CHECK(f.taken.is_null());
  CHECK(take("{\"id\":\"a\",\"count\":3}") == "{\"return\": {}}\r\n");
  CHECK(f.taken == Json{{"id", "a"}, {"count", 3}});
  CHECK(f.ask("{\"execute\":\"stop\",\"arguments\":{\"x\":1},\"id\":null}") ==
        "{\"id\": null, \"error\": {\"class\": \"GenericError\", \"desc\": \"Parameter 'x' is "
        "unexpected\"}}\r\n");
}

TEST_CASE("QMP: the id counts towards the nesting limit, and is echoed up to it", "[qmp]") {
  Fixture f;
  const std::string deep = std::string(1023, '[') + std::string(1023, ']');
  CHECK(f.ask("{\"execute\":\"query-name\",\"id\":" + deep + "}") ==
        "{\"return\": {}, \"id\": " + deep + "}\r\n");
  CHECK(f.ask("{\"execute\":\"query-name\",\"id\":[" + deep + "]}") ==
        generic("JSON nesting depth limit exceeded"));
  CHECK(f.ask("{\"execute\":\"query-name\"}") == "{\"return\": {}}\r\n");
}

TEST_CASE("QMP: events go to clients that negotiated, and to all of them", "[qmp]") {
  Fixture f;
  f.open(f.b);
  f.b.take_sent();
  CHECK(f.ask("{\"execute\":\"stop\"}") == event("\"STOP\"") + "{\"return\": {}}\r\n");
  CHECK(f.b.sent().empty());
  f.b.type("{\"execute\":\"qmp_capabilities\"}");
  f.b.take_sent();
  CHECK(f.ask("{\"execute\":\"cont\"}") == event("\"RESUME\"") + "{\"return\": {}}\r\n");
  CHECK(timeless(f.b.take_sent()) == event("\"RESUME\""));
}

TEST_CASE("QMP: the next client starts from the greeting, whatever the last one left", "[qmp]") {
  Fixture f;
  f.connect(f.a);
  f.a.type("{\"execute\":\"query-na");  // and dies
  f.a.event(devices::CharEvent::kClosed);
  CHECK(f.a.frontend()->can_receive() == 0);
  f.vm.tell([](VmObserver& o) { o.stopped(); });
  CHECK(f.a.take_sent().empty());
  f.connect(f.a);
  CHECK(f.ask("{\"execute\":\"query-name\"}").ends_with("{\"return\": {}}\r\n"));
}

TEST_CASE("QMP: a flood is served in turns, so that others get theirs", "[qmp]") {
  Fixture f({.commands_per_turn = 2});
  f.connect(f.a);
  f.connect(f.b);
  std::string flood;
  for (int i = 0; i < 7; ++i) flood += "{\"execute\":\"query-name\"}";
  f.a.type(flood);
  const std::string answer = "{\"return\": {}}\r\n";
  CHECK(f.a.sent() == answer + answer);
  CHECK(f.a.frontend()->can_receive() == 0);  // nothing is read ahead
  f.b.type("{\"execute\":\"query-name\"}");
  CHECK(f.b.sent() == answer);
  f.context->poll(PollMode::kNonBlocking);
  CHECK(f.a.sent().size() == 4 * answer.size());
  const unsigned invitations = f.a.invitations();
  f.run();
  CHECK(f.a.sent().size() == 7 * answer.size());
  CHECK(f.a.invitations() == invitations + 1);
}

TEST_CASE("QMP: a client that does not read is not read from, and loses no answer", "[qmp]") {
  Fixture f({.commands_per_turn = 1000, .output_bytes = 64});
  f.connect(f.a);
  f.a.set_room(0);
  const std::string command = "{\"execute\":\"query-name\",\"id\":12345}";
  const std::string answer = "{\"return\": {}, \"id\": 12345}\r\n";
  size_t asked = 0;
  while (f.a.frontend()->can_receive() > 0) asked += f.a.type(command) / command.size();
  CHECK(asked == 3);  // 3 answers are the first to reach 64 bytes
  CHECK(f.a.type(command) == 0);
  const unsigned invitations = f.a.invitations();
  f.a.make_room(test::FakeChardev::kUnlimited);
  f.run();
  CHECK(f.a.take_sent() == answer + answer + answer);
  CHECK(f.a.invitations() == invitations + 1);
}

TEST_CASE("QMP: events to a client that stalls are bounded, and the loss is told", "[qmp]") {
  Fixture f({.event_bytes = 4096});
  f.connect(f.a);
  f.connect(f.b);
  f.a.set_room(0);
  const int events = test::sized(1000, 1'000'000);
  for (int i = 0; i < events; ++i) f.vm.tell([](VmObserver& o) { o.stopped(); });
  f.a.make_room(test::FakeChardev::kUnlimited);
  f.vm.tell([](VmObserver& o) { o.resumed(); });

  const std::string sent = timeless(f.a.take_sent());
  const std::string stop = event("\"STOP\"");
  size_t delivered = 0;
  while (sent.compare(delivered * stop.size(), stop.size(), stop) == 0) ++delivered;
  CHECK(delivered > 0);
  CHECK(delivered * stop.size() <= 4096);
  CHECK(sent.substr(delivered * stop.size()) ==
        event("\"RHEA_EVENTS_DROPPED\", \"data\": {\"count\": " +
              std::to_string(static_cast<size_t>(events) - delivered) + "}") +
            event("\"RESUME\""));
  CHECK(f.ask("{\"execute\":\"query-name\"}").ends_with("{\"return\": {}}\r\n"));
}

TEST_CASE("QMP: the server stops observing when it goes", "[qmp]") {
  Fixture f;
  CHECK(f.vm.observers_.size() == 1);
  f.server.reset();
  CHECK(f.vm.observers_.empty());
  CHECK(f.a.frontend() == nullptr);
}

TEST_CASE("RunState: every state has QEMU's name", "[qmp]") {
  CHECK(to_string(RunState::kPrelaunch) == "prelaunch");
  CHECK(to_string(RunState::kFinishMigrate) == "finish-migrate");
  CHECK(to_string(RunState::kInternalError) == "internal-error");
  CHECK(to_string(RunState::kColo) == "colo");
  CHECK(to_string(Cause::kGuestReset) == "guest-reset");
}
