#include <algorithm>
#include <catch2/catch.hpp>

#include "tests/unit/vmm/cli_support.h"

using namespace rhea;
using namespace rhea::vmm;
using namespace rhea::test;

namespace {

using Type = ChardevConfig::Type;
using Texts = std::vector<std::string>;

/// The one chardev of "-serial VALUE".
ChardevConfig serial(std::string_view value) {
  const VmConfig config = config_of("-serial " + std::string(value));
  if (config.chardevs.size() != 1) throw std::runtime_error("not one chardev");
  return config.chardevs[0];
}

/// The one chardev of "-chardev VALUE".
ChardevConfig named(std::string_view value) {
  return config_of("-nodefaults -chardev " + std::string(value)).chardevs.at(0);
}

}  // namespace

TEST_CASE("-serial: every kind of console is understood", "[cli]") {
  CHECK(serial("null").type == Type::kNull);
  CHECK(serial("pty").type == Type::kPty);

  const ChardevConfig terminal = serial("stdio");
  CHECK(terminal.type == Type::kStdio);
  CHECK(terminal.signal);
  CHECK_FALSE(terminal.mux);

  const ChardevConfig file = serial("file:/tmp/a,b=c");
  CHECK(file.type == Type::kFile);
  CHECK(file.path == "/tmp/a,b=c");

  const ChardevConfig client = serial("unix:/tmp/a,,b");
  CHECK(client.type == Type::kUnixSocket);
  CHECK(client.path == "/tmp/a,b");
  CHECK_FALSE(client.server);
  CHECK_FALSE(client.wait);

  const ChardevConfig server = serial("unix:/s,server=on");
  CHECK(server.server);
  CHECK(server.wait);
  CHECK_FALSE(serial("unix:/s,server,nowait").wait);

  const ChardevConfig tcp = serial("tcp:localhost:4444,server=on,wait=off");
  CHECK(tcp.type == Type::kTcpSocket);
  CHECK(tcp.host == "localhost");
  CHECK(tcp.port == 4444);
  CHECK(tcp.server);
  CHECK(serial("tcp::4444,server=on").host.empty());
  CHECK(serial("tcp::0,server=on").port == 0);
  CHECK(serial("tcp:[::1]:65535").host == "::1");
}

TEST_CASE("-serial: a console that can not be is refused", "[cli]") {
  const std::string path(108, 'p');
  CHECK(error_of("-serial unix:" + path) == "-serial unix:" + path + ": UNIX socket path '" + path +
                                                "' is too long: it must be less than 108 bytes");
  CHECK(serial("unix:" + path.substr(1)).path.size() == 107);
  check_messages({
      {"-serial bogus", "-serial bogus: 'bogus' is not a valid char driver"},
      {"-serial ''", "-serial: '' is not a valid char driver"},
      {"-serial udp:x:1", "-serial udp:x:1: 'udp:x:1' is not a valid char driver"},
      {"-serial socket", "-serial socket: 'socket' is not a valid char driver"},
      {"-serial mon:bogus", "-serial mon:bogus: 'bogus' is not a valid char driver"},
      {"-serial mon:null", "-serial mon:null: mon: can only be followed by stdio"},
      {"-serial file:", "-serial file:: chardev: file: no filename given"},
      {"-serial unix:", "-serial unix:: the socket's path is empty"},
      {"-serial unix:/x,wait=off",
       "-serial unix:/x,wait=off: 'wait' option is incompatible with socket in client connect "
       "mode"},
      {"-serial unix:/x,server=maybe",
       "-serial unix:/x,server=maybe: Parameter 'server' expects 'on' or 'off'"},
      {"-serial unix:/x,bogus=1", "-serial unix:/x,bogus=1: Invalid parameter 'bogus'"},
      {"-serial tcp:localhost", "-serial tcp:localhost: 'localhost' is not of the form HOST:PORT"},
      {"-serial tcp:h:99999", "-serial tcp:h:99999: '99999' is not a port number"},
      {"-serial tcp:h:http", "-serial tcp:h:http: 'http' is not a port number"},
      {"-serial tcp:h:", "-serial tcp:h:: '' is not a port number"},
      {"-serial tcp:h:0", "-serial tcp:h:0: port 0 can not be connected to"},
      {"-serial tcp:::1:4444",
       "-serial tcp:::1:4444: an IPv6 address goes in brackets: [::1]:4444"},
      {"-serial tcp:h:1,bogus=1", "-serial tcp:h:1,bogus=1: Invalid parameter 'bogus'"},
      {"-serial chardev:zz", "-serial chardev:zz: chardev \"zz\" not found"},
      {"-serial null -serial null -serial file:x",
       "-serial file:x: Max. supported number of ISA serial ports is 2"},
      {"-serial stdio -serial stdio",
       "-serial stdio: cannot use stdio by multiple character devices"},
      {"-serial mon:stdio -qmp stdio",
       "-qmp stdio: cannot use stdio by multiple character devices"},
      {"-nographic -qmp stdio", "-nographic: cannot use stdio by multiple character devices"},
  });
}

TEST_CASE("-serial: ports keep their order, and none leaves a gap", "[cli]") {
  CHECK(config_of("-serial null -serial pty").serials == Texts{"serial0", "serial1"});
  CHECK(config_of("-serial none -serial pty").serials == Texts{"", "serial1"});
  CHECK(config_of("-serial none").serials.empty());
  CHECK(config_of("-nodefaults").serials.empty());
  CHECK(config_of("-serial chardev:c -chardev pty,id=c").serials == Texts{"c"});
}

TEST_CASE("-nographic: the terminal is serial port 0 unless something else is said", "[cli]") {
  const VmConfig config = config_of("-nographic");
  REQUIRE(config.chardevs.size() == 1);
  CHECK(config.serials == Texts{"serial0"});
  CHECK(config.chardevs[0].type == Type::kStdio);
  CHECK(config.chardevs[0].mux);
  CHECK_FALSE(config.chardevs[0].signal);
  CHECK(config_of("-serial null -nographic").chardevs[0].type == Type::kNull);
  CHECK(config_of("-nographic -nodefaults").chardevs.empty());
  CHECK(config_of("-nographic -serial none").chardevs.empty());
}

TEST_CASE("-chardev: each backend takes its own keys", "[cli]") {
  CHECK(named("null,id=a").type == Type::kNull);
  CHECK(named("pty,id=a").type == Type::kPty);
  CHECK(named("file,id=a,path=/f").path == "/f");
  CHECK(named("stdio,id=a,mux=on,signal=off").mux);
  CHECK_FALSE(named("stdio,id=a,mux=on,signal=off").signal);
  CHECK(named("socket,id=a,path=/s,server=on,wait=off").path == "/s");
  CHECK(named("socket,id=a,fd=27,server=on,wait=off").fd == 27);
  CHECK(named("socket,id=a,host=h,port=1").port == 1);
  CHECK(named(R"({"backend":"socket","id":"a","host":"h","port":"1","server":true})").server);
}

TEST_CASE("-chardev: a mistake is named", "[cli]") {
  check_messages({
      {"-chardev bogus,id=x", "-chardev bogus,id=x: 'bogus' is not a valid char driver name"},
      {"-chardev null", "-chardev null: chardev: no id specified"},
      {"-chardev null,id=1a",
       "-chardev null,id=1a: Parameter 'id' expects an identifier (letters, digits, '-', '.', "
       "'_', starting with a letter)"},
      {"-chardev null,id=a -chardev null,id=a", "-chardev null,id=a: Duplicate ID 'a' for chardev"},
      {"-serial null -chardev null,id=serial0",
       "-chardev null,id=serial0: Duplicate ID 'serial0' for chardev"},
      {"-chardev null,id=a,path=/x", "-chardev null,id=a,path=/x: Invalid parameter 'path'"},
      {"-chardev pty,id=a,mux=on", "-chardev pty,id=a,mux=on: Invalid parameter 'mux'"},
      {"-chardev file,id=a", "-chardev file,id=a: chardev: file: no filename given"},
      {"-chardev socket,id=a",
       "-chardev socket,id=a: One of 'path', 'fd' or 'host' option required"},
      {"-chardev socket,id=a,path=/x,fd=3",
       "-chardev socket,id=a,path=/x,fd=3: One of 'path', 'fd' or 'host' option required"},
      {"-chardev socket,id=a,host=x",
       "-chardev socket,id=a,host=x: chardev: socket: no port given"},
      {"-chardev socket,id=a,port=1",
       "-chardev socket,id=a,port=1: chardev: socket: no host given"},
      {"-chardev socket,id=a,fd=abc", "-chardev socket,id=a,fd=abc: Unable to parse FD number abc"},
      {"-chardev socket,id=a,fd=2147483648",
       "-chardev socket,id=a,fd=2147483648: Unable to parse FD number 2147483648"},
      {"-chardev socket,id=a,path=", "-chardev socket,id=a,path=: the socket's path is empty"},
      {"-chardev socket,id=a,path=/x,bogus=1",
       "-chardev socket,id=a,path=/x,bogus=1: Invalid parameter 'bogus'"},
      {"-chardev socket,id=a,path.x=1",
       "-chardev socket,id=a,path.x=1: Invalid parameter type for 'path', expected: string"},
  });
}

TEST_CASE("-device isa-serial: devices are mapped to ports", "[cli]") {
  CHECK(config_of("-chardev pty,id=a -device isa-serial,chardev=a").serials == Texts{"a"});
  CHECK(config_of("-chardev pty,id=a -device isa-serial,chardev=a,index=1").serials ==
        Texts{"", "a"});
  CHECK(config_of("-chardev pty,id=a -serial null -device isa-serial,chardev=a").serials ==
        Texts{"serial0", "a"});
  CHECK(config_of("-chardev pty,id=a -chardev pty,id=b -device isa-serial,chardev=a "
                  "-device isa-serial,chardev=b,index=0")
            .serials == Texts{"b", "a"});
  const VmConfig bare = config_of("-device isa-serial");
  CHECK(bare.serials == Texts{"isa-serial0"});
  CHECK(bare.chardevs.at(0).type == Type::kNull);
}

TEST_CASE("-device isa-serial: a mistake is named", "[cli]") {
  check_messages({
      {"-device isa-serial,chardev=nope",
       "-device isa-serial,chardev=nope: Property 'isa-serial.chardev' can't find value 'nope'"},
      {"-device isa-serial,bogus=1",
       "-device isa-serial,bogus=1: Property 'isa-serial.bogus' not found"},
      {"-device isa-serial,index=2",
       "-device isa-serial,index=2: Max. supported number of ISA serial ports is 2"},
      {"-device isa-serial,index=0 -device isa-serial,index=0",
       "-device isa-serial,index=0: serial port 0 is in use"},
      {"-serial null -device isa-serial,index=0",
       "-device isa-serial,index=0: serial port 0 is in use"},
      {"-device isa-serial -device isa-serial -device isa-serial",
       "-device isa-serial: Max. supported number of ISA serial ports is 2"},
      {"-device isa-serial,id=a -device isa-serial,id=a",
       "-device isa-serial,id=a: Duplicate device ID 'a'"},
      {"-chardev null,id=a -serial chardev:a -device isa-serial,chardev=a",
       "-device isa-serial,chardev=a: Device 'a' is in use"},
  });
}

TEST_CASE("-qmp, -mon, -debugcon, -qtest: each finds its chardev", "[cli]") {
  const VmConfig config = config_of(
      "-nodefaults -mon c,mode=control -chardev socket,id=c,path=/c,server=on -qmp tcp:h:1 "
      "-qmp chardev:d -chardev pty,id=d -debugcon file:/log -qtest unix:/q -qtest-log /dev/null");
  REQUIRE(config.monitors.size() == 3);
  CHECK(config.monitors[0].chardev_id == "c");
  CHECK(config.monitors[1].chardev_id == "compat_monitor1");
  CHECK(config.monitors[2].chardev_id == "d");
  CHECK(config.debug_console == "debugcon");
  CHECK(config.qtest_chardev == "qtest");
  CHECK(config.qtest_log == "/dev/null");
  CHECK(config.serials.empty());
  const auto qtest = std::ranges::find(config.chardevs, "qtest", &ChardevConfig::id);
  REQUIRE(qtest != config.chardevs.end());
  CHECK_FALSE(qtest->server);
}

TEST_CASE("-monitor, -mon, mon: each brings a monitor for people", "[cli]") {
  using Mode = MonitorConfig::Mode;
  const auto monitors = [](std::string_view line) {
    std::vector<std::pair<std::string, Mode>> found;
    for (const MonitorConfig& monitor : config_of(line).monitors) {
      found.emplace_back(monitor.chardev_id, monitor.mode);
    }
    return found;
  };
  using Monitors = std::vector<std::pair<std::string, Mode>>;
  constexpr auto kPeople = Mode::kReadline;
  CHECK(monitors("-monitor none").empty());
  CHECK(monitors("-monitor pty") == Monitors{{"compat_monitor0", kPeople}});
  CHECK(monitors("-nodefaults -chardev pty,id=c -mon c") == Monitors{{"c", kPeople}});
  CHECK(monitors("-chardev pty,id=c -mon c,mode=readline") == Monitors{{"c", kPeople}});
  CHECK(monitors("-nographic") == Monitors{{"serial0", kPeople}});
  CHECK(monitors("-debugcon mon:stdio") == Monitors{{"debugcon", kPeople}});
  // Those behind consoles do not count in the names of the others.
  CHECK(monitors("-serial mon:stdio -qmp pty") ==
        Monitors{{"compat_monitor0", Mode::kControl}, {"serial0", kPeople}});
  CHECK(monitors("-chardev stdio,id=c,mux=on -serial chardev:c -mon c") ==
        Monitors{{"c", kPeople}});
  check_messages({
      {"-chardev stdio,id=c,mux=on -serial chardev:c -mon c -mon c",
       "-mon c: Device 'c' is in use"},
      {"-chardev stdio,id=c,mux=on -serial chardev:c -mon c,mode=control",
       "-mon c,mode=control: Device 'c' is in use"},
      {"-chardev pty,id=c -serial chardev:c -mon c", "-mon c: Device 'c' is in use"},
      {"-monitor stdio -serial stdio",
       "-serial stdio: cannot use stdio by multiple character devices"},
      {"-monitor stdio -daemonize", "-monitor stdio: cannot use stdio with -daemonize"},
  });
}

TEST_CASE("-qmp, -mon, -debugcon, -qtest: a mistake is named", "[cli]") {
  check_messages({
      {"-mon chardev=zz,mode=control", "-mon chardev=zz,mode=control: chardev \"zz\" not found"},
      {"-mon chardev=zz,mode=bogus",
       "-mon chardev=zz,mode=bogus: Parameter 'mode' does not accept value 'bogus'"},
      {"-mon chardev=zz", "-mon chardev=zz: chardev \"zz\" not found"},
      {"-mon zz,mode=readline", "-mon zz,mode=readline: chardev \"zz\" not found"},
      {"-mon mode=control", "-mon mode=control: Parameter 'chardev' is missing"},
      {"-mon c,mode=control,pretty=on", "-mon c,mode=control,pretty=on: 'pretty' can only be off"},
      {"-chardev null,id=c -mon c,mode=control -mon c,mode=control",
       "-mon c,mode=control: Device 'c' is in use"},
      {"-qmp bogus", "-qmp bogus: 'bogus' is not a valid char driver"},
      {"-qmp unix:/q,bogus=1", "-qmp unix:/q,bogus=1: Invalid parameter 'bogus'"},
      {"-qtest bogus", "-qtest bogus: 'bogus' is not a valid char driver"},
      {"-qtest null -qtest null", "-qtest null: can be given only once"},
      {"-debugcon null -debugcon null", "-debugcon null: can be given only once"},
  });
}

TEST_CASE("-daemonize: the terminal is not there any more", "[cli]") {
  CHECK(config_of("-daemonize").daemonize);
  CHECK(config_of("-daemonize -nographic -nodefaults").daemonize);
  CHECK(config_of("-daemonize -nographic -serial null").daemonize);
  check_messages({
      {"-daemonize -serial stdio", "-serial stdio: cannot use stdio with -daemonize"},
      {"-chardev stdio,id=a -daemonize", "-chardev stdio,id=a: cannot use stdio with -daemonize"},
      {"-nographic -daemonize", "-nographic cannot be used with -daemonize"},
  });
}
