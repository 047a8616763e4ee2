#include <catch2/catch.hpp>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/support/fake_chardev.h"
#include "tests/support/fake_vm.h"
#include "tests/support/size.h"
#include "util/aio_context.h"
#include "vmm/hmp/human_monitor.h"
#include "vmm/hmp/line_editor.h"
#include "vmm/hmp/session.h"
#include "vmm/qmp/machine_commands.h"

using namespace rhea;
using namespace rhea::vmm;

namespace {

/// What a line editor shows, and the lines it gives, for keys.
struct Typed {
  std::string shown;
  std::vector<std::string> lines;
};
Typed type(LineEditor& editor, std::string_view keys) {
  Typed typed;
  for (const char key : keys) {
    LineEditor::Step step = editor.type(key);
    typed.shown += step.echo;
    if (step.line) typed.lines.push_back(*step.line);
  }
  return typed;
}

/// A monitor over commands that answer what a test says, and write down what they are asked.
struct Fixture {
  void answer(const std::string& name, const char* json, std::vector<QmpArgument> arguments = {}) {
    table.add({name, std::move(arguments), [this, name, json](const Json& given) -> QmpResult {
                 asked.push_back(name + given.dump());
                 return ReplyJson::parse(json);
               }});
  }
  std::string run(std::string_view line) { return HumanMonitor(table).run(line); }

  QmpCommandTable table;
  std::vector<std::string> asked;
};

constexpr auto kString = QmpType::kString;
constexpr const char* kDisk = R"([{"device":"","qdev":"/machine/peripheral/vd0/virtio-backend",
  "type":"unknown","removable":false,"locked":false,"io-status":"nospace","inserted":{"file":"a.img",
  "node-name":"d0","ro":true,"drv":"raw","bps":0,"bps_rd":0,"bps_wr":0,"iops":7,"iops_rd":0,
  "iops_wr":0,"group":"vd0","image":{"filename":"a.img","format":"raw","virtual-size":512},
  "cache":{"writeback":false,"direct":true,"no-flush":true}}},
  {"device":"cd","type":"unknown","removable":true,"locked":true,"tray_open":true}])";

}  // namespace

TEST_CASE("LineEditor: keys are shown, and Enter gives the line", "[hmp]") {
  LineEditor editor;
  const Typed typed = type(editor, "info pci\rx\ny\r\n\n");
  CHECK(typed.lines == std::vector<std::string>{"info pci", "x", "y", ""});
  CHECK(typed.shown == "info pci\r\nx\r\ny\r\n\r\n");
}

TEST_CASE("LineEditor: what was typed is taken back, on the screen too", "[hmp]") {
  LineEditor editor;
  CHECK(type(editor, "ab\x7f").shown == "ab\b \b");
  CHECK(type(editor, "\b\b\b").shown == "\b \b");  // an empty line stays
  CHECK(type(editor, "one two  \x17\r").lines.at(0) == "one ");
  CHECK(type(editor, "abc\x15").shown == "abc\b \b\b \b\b \b");
  CHECK(type(editor, "x\r").lines.at(0) == "x");
  CHECK(type(editor, "\xc3\xa4\x7f").shown == "\xc3\xa4\b \b");  // one character of two bytes
  CHECK(editor.line().empty());
  LineEditor::Step step = (editor.type('a'), editor.type('\x03'));
  CHECK(step.prompt);
  CHECK(step.echo == "^C\r\n");
  CHECK(editor.line().empty());
}

TEST_CASE("LineEditor: arrow keys and control characters leave nothing behind", "[hmp]") {
  LineEditor editor;
  CHECK(type(editor,
             "a\x1b[A\x1b[1;5D\x1bOP\x1b"
             "fb\tc\x01\r")
            .lines.at(0) == "abc");
  CHECK(type(editor, std::string("x\0y\r", 4)).lines.at(0) == "xy");
  editor.start_over();
  CHECK(type(editor, "\x1b[12").shown.empty());
  CHECK(type(editor, "\rz\r").lines == std::vector<std::string>{"z"});  // the sequence was broken
}

TEST_CASE("LineEditor: a line that is too long rings, and stays as it is", "[hmp]") {
  LineEditor editor;
  type(editor, std::string(LineEditor::kMostBytes, 'a'));
  CHECK(editor.type('b').echo == "\a");
  CHECK(editor.type('\r').line->size() == LineEditor::kMostBytes);
}

TEST_CASE("HumanMonitor: commands run those of QMP, with arguments of the right type", "[hmp]") {
  Fixture f;
  f.answer("stop", "{}");
  f.answer("device_del", "{}", {{"id", kString}});
  f.answer("qom-set", "{}", {{"path", kString}, {"property", kString}, {"value", QmpType::kAny}});
  f.answer("block_resize", "{}", {{"device", kString}, {"size", QmpType::kInteger}});
  f.table.add({.name = "device_add",
               .arguments = {},
               .handler =
                   [&](const Json& given) {
                     f.asked.push_back(given.dump());
                     return qmp_done();
                   },
               .shape = QmpShape::kAny});
  CHECK(f.run("stop").empty());
  CHECK(f.run("  s ").empty());
  CHECK(f.run("device_del vd0").empty());
  CHECK(f.run("device_del \"a \\\"b\"").empty());
  CHECK(f.run("qom-set io0 poll-max-ns 5").empty());
  CHECK(f.run("qom-set tg0 limits {\"iops-total\": 5}").empty());
  CHECK(f.run("qom-set a b c d").empty());
  CHECK(f.run("qom-set a b " + std::string(100'000, '[')).empty());  // a text: too deep for JSON
  CHECK(f.asked.back() ==
        R"(qom-set{"path":"a","property":"b","value":")" + std::string(100'000, '[') + "\"}");
  f.asked.pop_back();
  CHECK(f.run("block_resize d0 2").empty());
  CHECK(f.run("block_resize d0 1k").empty());
  CHECK(f.run("device_add virtio-blk-pci,id=7,drive=9,addr=5,num-queues=2,share-rw=on,serial=1,"
              "iothread-vq-mapping.0.iothread=io0,iothread-vq-mapping.0.vqs.0=1,bogus=1")
            .empty());
  CHECK(f.asked ==
        std::vector<std::string>{
            "stop{}", "stop{}", R"(device_del{"id":"vd0"})", R"(device_del{"id":"a \"b"})",
            R"(qom-set{"path":"io0","property":"poll-max-ns","value":5})",
            R"(qom-set{"path":"tg0","property":"limits","value":{"iops-total":5}})",
            R"(qom-set{"path":"a","property":"b","value":"c d"})",
            R"(block_resize{"device":"d0","size":2097152})",
            R"(block_resize{"device":"d0","size":1024})",
            R"({"addr":"5","bogus":"1","drive":"9","driver":"virtio-blk-pci","id":"7",)"
            R"("iothread-vq-mapping":[{"iothread":"io0","vqs":[1]}],"num-queues":2,"serial":"1",)"
            R"("share-rw":true})"});
}

TEST_CASE("HumanMonitor: what is wrong is said as QEMU does", "[hmp]") {
  Fixture f;
  f.answer("stop", "{}");
  f.answer("query-block", kDisk);
  f.answer("device_add", "{}", {{"driver", kString}});
  f.table.add({"device_del", {{"id", kString}}, [](const Json&) {
                 return QmpError{QmpErrorClass::kDeviceNotFound, "Device 'x' not found"};
               }});
  CHECK(f.run("").empty());
  CHECK(f.run("bogus 1") == "unknown command: 'bogus'\n");
  CHECK(f.run("cont") == "unknown command: 'cont'\n");  // there is no such command of QMP here
  CHECK(f.run("info bogus") == "unknown command: 'info bogus'\n");
  CHECK(f.run("info pci") == "unknown command: 'info pci'\n");
  CHECK(f.run("device_del") ==
        "device_del: string expected\nTry \"help device_del\" for more information\n");
  CHECK(f.run("device_del x") == "Error: Device 'x' not found\n");
  CHECK(f.run("stop now") ==
        "stop|s: extraneous characters at the end of line\nTry \"help stop\" for more "
        "information\n");
  CHECK(f.run("info block -x") ==
        "block: unsupported option -x\nTry \"help info block\" for more information\n");
  CHECK(f.run("info block nope") == "Error: Device 'nope' not found\n");
  CHECK(f.run("device_add") == "Error: Parameter 'driver' is missing\n");
  CHECK(f.run("device_add ,,") == "Error: Invalid parameter ''\n");
}

TEST_CASE("HumanMonitor: help lists what there is", "[hmp]") {
  Fixture f;
  f.answer("stop", "{}");
  f.answer("query-status", "{}");
  const std::string stop = "stop|s  -- stop emulation\n";
  const std::string status = "info status  -- show the current VM status (running|paused)\n";
  CHECK(f.run("help") ==
        "help|? [cmd] -- show the help\ninfo [subcommand] -- show various "
        "information about the system state\n" +
            stop);
  CHECK(f.run("? stop") == stop);
  CHECK(f.run("help s") == stop);
  CHECK(f.run("help info") == status);
  CHECK(f.run("info") == status);
  CHECK(f.run("help info status") == status);
  CHECK(f.run("help nope") == "unknown command: 'nope'\n");
  CHECK(f.run("help info nope") == "unknown command: 'info nope'\n");
}

TEST_CASE("HumanMonitor: a medium is ejected and changed where QMP can", "[hmp]") {
  Fixture f;
  CHECK(f.run("eject cd") == "unknown command: 'eject'\n");
  f.answer("eject", "{}", {{"device", kString}, {"force", QmpType::kBoolean}});
  f.answer(
      "blockdev-change-medium", "{}",
      {{"device", kString}, {"filename", kString}, {"format", kString, QmpPresence::kOptional}});
  CHECK(f.run("eject -f cd").empty());
  CHECK(f.run("eject cd").empty());
  CHECK(f.run("change cd \"a b.iso\" raw").empty());
  CHECK(f.asked ==
        std::vector<std::string>{
            R"(eject{"device":"cd","force":true})", R"(eject{"device":"cd","force":false})",
            R"(blockdev-change-medium{"device":"cd","filename":"a b.iso","format":"raw"})"});
  CHECK(f.run("eject") ==
        "eject: block device name expected\nTry \"help eject\" for more information\n");
}

TEST_CASE("HumanMonitor: info block shows disks as QEMU does", "[hmp]") {
  Fixture f;
  f.answer("query-block", kDisk);
  const std::string d0 =
      "d0: a.img (raw, read-only)\n"
      "    Attached to:      /machine/peripheral/vd0/virtio-backend\n"
      "    I/O status:       nospace\n"
      "    Cache mode:       writethrough, direct, ignore flushes\n"
      "    I/O throttling:   bps=0 bps_rd=0 bps_wr=0 iops=7 iops_rd=0 iops_wr=0 group=vd0\n";
  const std::string cd = "cd: [not inserted]\n    Removable device: locked, tray open\n";
  CHECK(f.run("info block") == d0 + "\n" + cd);
  CHECK(f.run("info block cd") == cd);
  CHECK(f.run("info block -v d0") ==
        d0 + "\nImages:\nimage: a.img\nfile format: raw\nvirtual size: 512 bytes\n");
}

TEST_CASE("HumanMonitor: info shows what small queries answer", "[hmp]") {
  Fixture f;
  f.answer("query-iothreads", R"([{"id":"io0","thread-id":7,"poll-max-ns":1,"poll-grow":2,
                                   "poll-shrink":3,"aio-max-batch":0}])");
  f.answer("query-version", R"({"qemu":{"micro":0,"minor":2,"major":7},"package":"rhea-1"})");
  f.answer("query-chardev", R"([{"label":"serial0","filename":"pty:/dev/pts/1"}])");
  f.answer("query-cpus-fast", R"([{"cpu-index":0,"thread-id":5},{"cpu-index":1,"thread-id":6}])");
  f.answer("query-kvm", R"({"enabled":true,"present":true})");
  f.answer("query-name", R"({"name":"guest"})");
  f.answer("query-block-jobs", "[]");
  f.answer("x-query-hotplug",
           R"([{"id":"vd0","slot":2,"state":"timed-out","since-ms":9,"reason":"why"}])");
  CHECK(f.run("info iothreads") ==
        "io0:\n  thread_id=7\n  poll-max-ns=1\n  poll-grow=2\n  poll-shrink=3\n  "
        "aio-max-batch=0\n");
  CHECK(f.run("info version") == "7.2.0 rhea-1\n");
  CHECK(f.run("info chardev") == "serial0: filename=pty:/dev/pts/1\n");
  CHECK(f.run("info cpus") == "* CPU #0: thread_id=5\n  CPU #1: thread_id=6\n");
  CHECK(f.run("info kvm") == "kvm support: enabled\n");
  CHECK(f.run("info name") == "guest\n");
  CHECK(f.run("info block-jobs") == "No active jobs\n");
  CHECK(f.run("info hotplug") == "vd0: timed-out for 9 ms: why\n");
}

TEST_CASE("HumanMonitor: info status tells running from why not", "[hmp]") {
  for (const auto& [json, text] : std::vector<std::pair<const char*, const char*>>{
           {R"({"status":"running","running":true})", "VM status: running\n"},
           {R"({"status":"paused","running":false})", "VM status: paused\n"},
           {R"({"status":"prelaunch","running":false})", "VM status: paused (prelaunch)\n"}}) {
    Fixture f;
    f.answer("query-status", json);
    CHECK(f.run("info status") == text);
  }
}

TEST_CASE("HumanMonitor: info pci shows devices and where they are", "[hmp]") {
  Fixture f;
  f.answer("query-pci", R"([{"bus":0,"devices":[{"irq_pin":1,"bus":0,"qdev_id":"vd0","irq":11,
    "slot":5,"class_info":{"class":256,"desc":"SCSI controller"},"id":{"device":4162,
    "subsystem-vendor":6900,"vendor":6900,"subsystem":4352},"function":0,"regions":[
    {"bar":0,"size":128,"address":49152,"type":"io"},
    {"prefetch":false,"mem_type_64":false,"bar":1,"size":8192,"address":4261412864,"type":"memory"},
    {"prefetch":true,"mem_type_64":true,"bar":4,"size":16384,"address":-1,"type":"memory"}]}]}])");
  CHECK(f.run("info pci") ==
        "  Bus  0, device   5, function 0:\n"
        "    SCSI controller: PCI device 1af4:1042\n"
        "      PCI subsystem 1af4:1100\n"
        "      IRQ 11, pin A\n"
        "      BAR0: I/O at 0xc000 [0xc07f].\n"
        "      BAR1: 32 bit memory at 0xfe000000 [0xfe001fff].\n"
        "      BAR4: 64 bit prefetchable memory of 16384 bytes, not mapped.\n"
        "      id \"vd0\"\n");
}

namespace {

/// A human monitor on a machine's commands, with a client.
struct SessionFixture {
  SessionFixture() {
    add_machine_commands(table, vm);
    session = std::make_unique<HmpSession>(*context, monitor, client, "hello");
  }
  void run() const {
    while (context->poll(PollMode::kNonBlocking)) {
    }
  }
  /// What is shown for keys.
  std::string type(std::string_view keys) {
    client.type(keys);
    run();
    return client.take_sent();
  }

  BqlGuard bql_guard;
  std::unique_ptr<AioContext> context = AioContext::create("service").value();
  rhea::test::FakeVm vm;
  rhea::test::FakeChardev client;
  QmpCommandTable table;
  const HumanMonitor monitor{table};
  std::unique_ptr<HmpSession> session;
};

}  // namespace

TEST_CASE("HmpSession: a client is greeted, and each line is answered behind its echo", "[hmp]") {
  SessionFixture f;
  CHECK(f.client.frontend()->can_receive() == 0);  // nobody is there
  f.client.event(devices::CharEvent::kOpened);
  CHECK(f.client.take_sent() == "hello\r\n(rhea) ");
  CHECK(f.type("info sta") == "info sta");
  CHECK(f.type("tus\r") == "tus\r\nVM status: paused (prelaunch)\r\n(rhea) ");
  CHECK(f.type("\r") == "\r\n(rhea) ");
  CHECK(f.type("x\x03") == "x^C\r\n(rhea) ");
  CHECK(f.type("cont\r") == "cont\r\n(rhea) ");
  CHECK(f.vm.state() == RunState::kRunning);
  CHECK(f.type("quit\r") == "quit\r\n(rhea) ");
  CHECK(f.vm.quit_);
}

TEST_CASE("HmpSession: the next client starts with an empty line", "[hmp]") {
  SessionFixture f;
  f.client.event(devices::CharEvent::kOpened);
  f.type("info stat");
  f.client.event(devices::CharEvent::kClosed);
  CHECK(f.client.frontend()->can_receive() == 0);
  f.client.event(devices::CharEvent::kOpened);
  CHECK(f.client.take_sent() == "hello\r\n(rhea) ");
  CHECK(f.type("stop\r") == "stop\r\n(rhea) ");
}

TEST_CASE("HmpSession: lines that come together are run one a turn", "[hmp]") {
  SessionFixture f;
  f.client.event(devices::CharEvent::kOpened);
  f.client.take_sent();
  f.client.push("cont\rstop\r");
  CHECK(f.vm.state() == RunState::kRunning);
  CHECK(f.client.frontend()->can_receive() == 0);
  const unsigned invitations = f.client.invitations();
  f.run();
  CHECK(f.vm.state() == RunState::kPaused);
  CHECK(f.client.invitations() == invitations + 1);
}

TEST_CASE("HmpSession: a client that does not read is not read from, and loses nothing", "[hmp]") {
  SessionFixture f;
  f.client.event(devices::CharEvent::kOpened);
  f.client.take_sent();
  f.client.set_room(3);
  f.client.push("info status\rcont\r");
  f.run();
  CHECK(f.client.take_sent() == "inf");
  CHECK(f.client.frontend()->can_receive() == 0);
  CHECK(f.vm.state() == RunState::kPrelaunch);
  f.client.make_room(rhea::test::FakeChardev::kUnlimited);
  f.run();
  CHECK(f.client.take_sent() ==
        "o status\r\nVM status: paused (prelaunch)\r\n(rhea) cont\r\n(rhea) ");
  CHECK(f.vm.state() == RunState::kRunning);
}

TEST_CASE("HmpSession: whatever is typed, each line ends in a prompt", "[hmp]") {
  SessionFixture f;
  f.client.event(devices::CharEvent::kOpened);
  f.client.take_sent();
  const std::vector<std::string> pieces{
      "info ", "status", "help ", "stop", "cont", "name", "\"",       "\\",   " -",
      "=",     ",",      "{",     "[",    "0",    "\x7f", "\x15",     "\x17", "\x1b[A",
      "\x1b",  "\x03",   "\r",    "\n",   "\r\n", "\xff", "\xc3\xa4", "\t",   "a b"};
  std::mt19937 random(20'261'121);  // any will do, and the same each time
  LineEditor mirror;
  for (int i = 0; i < rhea::test::sized(3000, 300'000); ++i) {
    const std::string& keys = pieces[random() % pieces.size()];
    size_t prompts = 0;
    for (const char key : keys) {
      const LineEditor::Step step = mirror.type(key);
      prompts += step.line.has_value() || step.prompt;
    }
    const std::string shown = f.type(keys);
    size_t seen = 0;
    for (size_t at = 0; (at = shown.find(HmpSession::kPrompt, at)) != shown.npos; ++at) ++seen;
    REQUIRE(seen == prompts);
  }
}
