#include "vmm/qmp/fd_commands.h"

#include <catch2/catch.hpp>
#include <memory>
#include <string>

#include "tests/support/fake_chardev.h"
#include "tests/support/fake_vm.h"
#include "tests/support/passed_fd.h"
#include "vmm/qmp/server.h"

using namespace rhea;
using namespace rhea::vmm;
using rhea::test::PassedFd;
using rhea::test::set_of;

namespace {

constexpr std::string_view kDone = "{\"return\": {}}\r\n";

std::string generic(const std::string& description) {
  return fmt::format("{{\"error\": {{\"class\": \"GenericError\", \"desc\": \"{}\"}}}}\r\n",
                     description);
}
const std::string kNothingPassed = generic("No file descriptor supplied via SCM_RIGHTS");

std::string command(const std::string& name, const std::string& fdname) {
  return fmt::format(R"({{"execute":"{}","arguments":{{"fdname":"{}"}}}})", name, fdname);
}
std::string getfd(const std::string& name) { return command("getfd", name); }
std::string closefd(const std::string& name) { return command("closefd", name); }
/// A command of the test's own that takes a descriptor, as migrate does.
std::string take(const std::string& name) { return command("take", name); }

/// A server with two monitors, and a command that takes descriptors.
struct Fixture {
  explicit Fixture(QmpLimits limits = {}) {
    QmpCommandTable table;
    add_fd_commands(table);
    table.add({"take", {{"fdname", QmpType::kString}}, [this](const Json& given, NamedFds& fds) {
                 return take_into(taken, given, fds);
               }});
    bql.assert_held();
    server = std::make_unique<QmpServer>(*context, vm, std::move(table),
                                         QmpVersion{.package = "rhea-1.2.3"}, limits);
    server->add_monitor(a);
    server->add_monitor(b);
    connect(a);
    connect(b);
  }
  static QmpResult take_into(Fd& taken, const Json& arguments, NamedFds& fds) {
    taken = TRY(fds.take(arguments["fdname"].get<std::string>()));
    return qmp_done();
  }
  static void connect(test::FakeChardev& client) {
    client.event(devices::CharEvent::kOpened);
    client.type("{\"execute\":\"qmp_capabilities\"}");
    REQUIRE(client.take_sent().ends_with(kDone));
  }
  static void reconnect(test::FakeChardev& client) {
    client.event(devices::CharEvent::kClosed);
    connect(client);
  }
  /// The answer to `text`, with which `fds` come, if any.
  std::string ask(test::FakeChardev& client, std::string_view text,
                  std::vector<Fd> fds = {}) const {
    if (!fds.empty()) client.frontend()->receive_fds(std::move(fds));
    client.type(text);
    while (context->poll(PollMode::kNonBlocking)) {
    }
    return client.take_sent();
  }

  BqlGuard bql_guard;
  std::unique_ptr<AioContext> context = AioContext::create("service").value();
  test::FakeVm vm;
  test::FakeChardev a, b;
  Fd taken;
  std::unique_ptr<QmpServer> server;
};

}  // namespace

TEST_CASE("getfd: a command finds the descriptor that its client has named", "[qmp][fds]") {
  Fixture f;
  PassedFd passed;
  CHECK(f.ask(f.a, getfd("migrate"), set_of(passed.give())) == kDone);
  CHECK(f.ask(f.a, take("migrate")) == kDone);
  CHECK(passed.is(f.taken.get()));
  CHECK(f.ask(f.a, take("migrate")) ==
        generic("File descriptor named 'migrate' has not been found"));
}

TEST_CASE("getfd: the refusals are QEMU's", "[qmp][fds]") {
  Fixture f;
  PassedFd passed;
  CHECK(f.ask(f.a, getfd("x")) == kNothingPassed);
  CHECK(f.ask(f.a, getfd("1x"), set_of(passed.give())) ==
        generic("Parameter 'fdname' expects a name not starting with a digit"));
  CHECK_FALSE(passed.is_open());
  CHECK(f.ask(f.a, "{\"execute\":\"getfd\"}") == generic("Parameter 'fdname' is missing"));
}

TEST_CASE("closefd: closes what has the name, and knows no other", "[qmp][fds]") {
  Fixture f;
  PassedFd passed;
  CHECK(f.ask(f.a, getfd("x"), set_of(passed.give())) == kDone);
  CHECK(f.ask(f.a, closefd("x")) == kDone);
  CHECK_FALSE(passed.is_open());
  CHECK(f.ask(f.a, closefd("x")) == generic("File descriptor named 'x' not found"));
}

TEST_CASE("getfd: names are a monitor's own", "[qmp][fds]") {
  Fixture f;
  PassedFd ours, theirs;
  CHECK(f.ask(f.a, getfd("x"), set_of(ours.give())) == kDone);
  CHECK(f.ask(f.b, take("x")) == generic("File descriptor named 'x' has not been found"));
  CHECK(f.ask(f.b, closefd("x")) == generic("File descriptor named 'x' not found"));
  CHECK(f.ask(f.b, getfd("x"), set_of(theirs.give())) == kDone);
  CHECK(ours.is_open());
  CHECK(f.ask(f.a, take("x")) == kDone);
  CHECK(ours.is(f.taken.get()));
}

TEST_CASE("getfd: what waits goes with its client, what has a name stays", "[qmp][fds]") {
  Fixture f;
  PassedFd named, waiting;
  CHECK(f.ask(f.a, getfd("x"), set_of(named.give())) == kDone);
  f.ask(f.a, "{\"execute\":\"query-version\"}", set_of(waiting.give()));
  CHECK(waiting.is_open());
  f.reconnect(f.a);
  CHECK_FALSE(waiting.is_open());
  CHECK(f.ask(f.a, getfd("y")) == kNothingPassed);
  CHECK(f.ask(f.a, take("x")) == kDone);
  CHECK(named.is(f.taken.get()));
}

TEST_CASE("getfd: descriptors wait for a command that comes in pieces", "[qmp][fds]") {
  Fixture f;
  PassedFd passed;
  const std::string text = getfd("x");
  CHECK(f.ask(f.a, text.substr(0, 9), set_of(passed.give())).empty());
  CHECK(f.ask(f.a, text.substr(9)) == kDone);
  CHECK(f.ask(f.a, take("x")) == kDone);
  CHECK(passed.is(f.taken.get()));
}

TEST_CASE("getfd: descriptors wait for a command that a later turn serves", "[qmp][fds]") {
  Fixture f({.commands_per_turn = 2});
  PassedFd passed;
  std::string flood, answers;
  for (int i = 0; i < 5; ++i) {
    flood += closefd("none");
    answers += generic("File descriptor named 'none' not found");
  }
  f.a.frontend()->receive_fds(set_of(passed.give()));
  f.a.type(flood + getfd("x") + take("x"));
  CHECK(f.a.sent().size() == 2 * answers.size() / 5);
  CHECK(f.a.frontend()->can_receive() == 0);  // so no other descriptors can come
  CHECK(f.ask(f.a, "") == answers + std::string(kDone) + std::string(kDone));
  CHECK(passed.is(f.taken.get()));
}

TEST_CASE("getfd: on the human monitor there is nothing to name", "[qmp][fds]") {
  QmpCommandTable table;
  add_fd_commands(table);
  const QmpResult answer = HumanMonitor(table).ask("getfd", {{"fdname", "x"}});
  REQUIRE_FALSE(answer.has_value());
  CHECK(answer.error().description == "No file descriptor supplied via SCM_RIGHTS");
}

TEST_CASE("getfd: named descriptors go with the server", "[qmp][fds]") {
  Fixture f;
  PassedFd passed;
  CHECK(f.ask(f.a, getfd("x"), set_of(passed.give())) == kDone);
  CHECK(passed.is_open());
  f.server.reset();
  CHECK_FALSE(passed.is_open());
}
