#include "migration/address.h"

#include <catch2/catch.hpp>
#include <string>
#include <utility>
#include <vector>

using namespace rhea;
using migration::Address;
using migration::parse_address;

namespace {

std::string error_of(const std::string& uri) {
  const auto address = parse_address(uri);
  return address ? "(accepted)" : address.error().message();
}

}  // namespace

TEST_CASE("Address: each protocol's address is read, and written as it was", "[migration]") {
  struct Row {
    const char* uri;
    Address address;
  };
  using Kind = Address::Kind;
  const std::vector<Row> rows{
      {"tcp:localhost:4444", {.kind = Kind::kTcp, .host = "localhost", .port = "4444"}},
      {"tcp::0", {.kind = Kind::kTcp, .host = "", .port = "0"}},
      {"tcp:[::1]:65535", {.kind = Kind::kTcp, .host = "::1", .port = "65535"}},
      {"tcp:host:http", {.kind = Kind::kTcp, .host = "host", .port = "http"}},
      {"unix:/tmp/a:b,c", {.kind = Kind::kUnix, .target = "/tmp/a:b,c"}},
      {"fd:migfd", {.kind = Kind::kFd, .target = "migfd"}},
      {"fd:7", {.kind = Kind::kFd, .target = "7"}},
      {"exec:cat > /tmp/x", {.kind = Kind::kExec, .target = "cat > /tmp/x"}},
      {"file:/tmp/x", {.kind = Kind::kFile, .target = "/tmp/x"}},
      {"file:/tmp/x,offset=4096", {.kind = Kind::kFile, .target = "/tmp/x", .offset_bytes = 4096}},
  };
  for (const Row& row : rows) {
    INFO(row.uri);
    const auto address = parse_address(row.uri);
    REQUIRE(address.has_value());
    CHECK(*address == row.address);
    CHECK(address->text() == row.uri);
  }
  CHECK(MUST(parse_address("file:/tmp/x,offset=1M")).offset_bytes == 1 << 20);
}

TEST_CASE("Address: an unknown protocol is refused in QEMU's words", "[migration]") {
  for (const char* uri : {"bogus:1", "", ":", "tcp", "TCP:a:1", "/tmp/x", "rdma:host:1"}) {
    INFO(uri);
    const auto address = parse_address(uri);
    REQUIRE_FALSE(address.has_value());
    CHECK(address.error().kind() == ErrorKind::kUnsupported);
    CHECK(address.error().message() == std::string("unknown migration protocol: ") + uri);
  }
}

TEST_CASE("Address: a known protocol with a malformed rest says what is wrong", "[migration]") {
  const std::string long_path(108, 'x');
  const std::vector<std::pair<std::string, std::string>> rows{
      {"tcp:", "error parsing address ''"},
      {"tcp:host", "error parsing address 'host'"},
      {"tcp:host:", "error parsing port in address 'host:'"},
      {"tcp:host:65536", "error parsing port in address 'host:65536'"},
      {"tcp:host:99999999999999999999",
       "error parsing port in address 'host:99999999999999999999'"},
      {"tcp:host:1:2", "error parsing port in address 'host:1:2'"},
      {"tcp:host:1,to=9", "error parsing port in address 'host:1,to=9'"},
      {"tcp:[::1", "error parsing IPv6 address '[::1'"},
      {"tcp:[]:1", "error parsing IPv6 address '[]:1'"},
      {"unix:", "unix: needs the path of a socket"},
      {"unix:" + long_path, "UNIX socket path '" + long_path + "' is too long: 107 bytes at most"},
      {"fd:", "fd: needs the name or number of a descriptor"},
      {"exec:", "exec: needs a command"},
      {"file:", "file: needs the path of a file"},
      {"file:,offset=1", "file: needs the path of a file"},
      {"file:/x,offset=", "file URI has bad offset "},
      {"file:/x,offset=-1", "file URI has bad offset -1"},
      {"file:/x,offset=9223372036854775808", "file URI has bad offset 9223372036854775808"},
  };
  for (const auto& [uri, message] : rows) CHECK(error_of(uri) == message);
}

TEST_CASE("Address: only tcp and unix take several connections", "[migration]") {
  CHECK(MUST(parse_address("tcp::1")).takes_connections());
  CHECK(MUST(parse_address("unix:x")).takes_connections());
  for (const char* uri : {"fd:3", "exec:cat", "file:x"}) {
    CHECK_FALSE(MUST(parse_address(uri)).takes_connections());
  }
}
