#include "migration/address.h"

#include <sys/un.h>

#include <algorithm>
#include <limits>

#include "util/parse.h"

namespace rhea::migration {
namespace {

Result<Address> parse_tcp(std::string_view rest) {
  Address address{.kind = Address::Kind::kTcp};
  std::string_view port;
  if (rest.starts_with('[')) {
    const size_t end = rest.find("]:");
    if (end == rest.npos || end == 1) {
      return fail(ErrorKind::kInvalidArgument, "error parsing IPv6 address '{}'", rest);
    }
    address.host = rest.substr(1, end - 1);
    port = rest.substr(end + 2);
  } else {
    const size_t colon = rest.find(':');
    if (colon == rest.npos) {
      return fail(ErrorKind::kInvalidArgument, "error parsing address '{}'", rest);
    }
    address.host = rest.substr(0, colon);
    port = rest.substr(colon + 1);
  }
  const bool all_digits = std::ranges::all_of(port, [](char c) { return c >= '0' && c <= '9'; });
  const auto number = parse_uint(port);
  if (port.empty() || port.find_first_of(":,[] ") != port.npos ||
      (all_digits && (!number || *number > std::numeric_limits<uint16_t>::max()))) {
    return fail(ErrorKind::kInvalidArgument, "error parsing port in address '{}'", rest);
  }
  address.port = port;
  return address;
}

Result<Address> parse_unix(std::string_view path) {
  if (path.empty()) return fail(ErrorKind::kInvalidArgument, "unix: needs the path of a socket");
  constexpr size_t kLongest = sizeof(sockaddr_un::sun_path) - 1;
  if (path.size() > kLongest) {
    return fail(ErrorKind::kInvalidArgument, "UNIX socket path '{}' is too long: {} bytes at most",
                path, kLongest);
  }
  return Address{.kind = Address::Kind::kUnix, .target = std::string(path)};
}

Result<Address> parse_file(std::string_view rest) {
  constexpr std::string_view kOffset = ",offset=";
  Address address{.kind = Address::Kind::kFile};
  const size_t option = rest.rfind(kOffset);
  if (option != rest.npos) {
    const std::string_view text = rest.substr(option + kOffset.size());
    const auto offset = parse_size(text);
    if (!offset || *offset > std::numeric_limits<int64_t>::max()) {
      return fail(ErrorKind::kInvalidArgument, "file URI has bad offset {}", text);
    }
    address.offset_bytes = *offset;
    rest = rest.substr(0, option);
  }
  if (rest.empty()) return fail(ErrorKind::kInvalidArgument, "file: needs the path of a file");
  address.target = rest;
  return address;
}

Result<Address> parse_plain(Address::Kind kind, std::string_view rest, std::string_view needs) {
  if (rest.empty()) return Error(ErrorKind::kInvalidArgument, std::string(needs));
  return Address{.kind = kind, .target = std::string(rest)};
}

}  // namespace

Result<Address> parse_address(std::string_view uri) {
  const size_t colon = uri.find(':');
  const std::string_view protocol = uri.substr(0, colon);
  const std::string_view rest = colon == uri.npos ? "" : uri.substr(colon + 1);
  if (colon != uri.npos) {
    if (protocol == "tcp") return parse_tcp(rest);
    if (protocol == "unix") return parse_unix(rest);
    if (protocol == "file") return parse_file(rest);
    if (protocol == "fd") {
      return parse_plain(Address::Kind::kFd, rest, "fd: needs the name or number of a descriptor");
    }
    if (protocol == "exec") {
      return parse_plain(Address::Kind::kExec, rest, "exec: needs a command");
    }
  }
  return fail(ErrorKind::kUnsupported, "unknown migration protocol: {}", uri);
}

std::string Address::text() const {
  switch (kind) {
    case Kind::kTcp:
      return host.find(':') == host.npos ? fmt::format("tcp:{}:{}", host, port)
                                         : fmt::format("tcp:[{}]:{}", host, port);
    case Kind::kUnix:
      return fmt::format("unix:{}", target);
    case Kind::kFd:
      return fmt::format("fd:{}", target);
    case Kind::kExec:
      return fmt::format("exec:{}", target);
    case Kind::kFile:
      return offset_bytes == 0 ? fmt::format("file:{}", target)
                               : fmt::format("file:{},offset={}", target, offset_bytes);
  }
  RHEA_UNREACHABLE();
}

}  // namespace rhea::migration
