// -chardev, and the short spelling of a chardev that -serial, -qmp and others share.
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <limits>

#include "util/parse.h"
#include "vmm/internal/cli.h"

namespace rhea::vmm::cli {
namespace {

using Type = ChardevConfig::Type;

constexpr size_t kMaxUnixPath = sizeof(sockaddr_un::sun_path) - 1;

/// off for server and wait where the peer is dialled, a peer is waited for where it is not.
Result<void> take_server_keys(OptionReader& reader, ChardevConfig& chardev) {
  chardev.server = TRY(reader.take_bool("server")).value_or(false);
  const auto wait = TRY(reader.take_bool("wait"));
  if (wait && !chardev.server) {
    return fail(ErrorKind::kInvalidArgument,
                "'wait' option is incompatible with socket in client connect mode");
  }
  chardev.wait = chardev.server && wait.value_or(true);
  return ok();
}

Result<void> set_unix_path(ChardevConfig& chardev, std::string path) {
  if (path.empty()) return fail(ErrorKind::kInvalidArgument, "the socket's path is empty");
  if (path.size() > kMaxUnixPath) {
    return fail(ErrorKind::kInvalidArgument,
                "UNIX socket path '{}' is too long: it must be less than {} bytes", path,
                kMaxUnixPath + 1);
  }
  chardev.type = Type::kUnixSocket;
  chardev.path = std::move(path);
  return ok();
}

/// Port 0 lets the kernel choose, which helps nobody who has to be dialled.
Result<void> set_tcp_address(ChardevConfig& chardev, std::string host, std::string_view port) {
  const auto number = parse_uint(port);
  if (!number || *number > std::numeric_limits<uint16_t>::max()) {
    return fail(ErrorKind::kInvalidArgument, "'{}' is not a port number", port);
  }
  if (*number == 0 && !chardev.server) {
    return fail(ErrorKind::kInvalidArgument, "port 0 can not be connected to");
  }
  chardev.type = Type::kTcpSocket;
  chardev.host = std::move(host);
  chardev.port = static_cast<uint16_t>(*number);
  return ok();
}

Result<void> set_fd(ChardevConfig& chardev, const std::string& text) {
  const auto fd = parse_uint(text);
  if (!fd || *fd > static_cast<uint64_t>(std::numeric_limits<int>::max())) {
    return fail(ErrorKind::kInvalidArgument, "Unable to parse FD number {}", text);
  }
  chardev.type = Type::kUnixSocket;
  chardev.fd = static_cast<int>(*fd);
  return ok();
}

// One function per backend of -chardev. Each takes the keys it knows.

Result<void> read_null(OptionReader&, ChardevConfig&) { return ok(); }

Result<void> read_stdio(OptionReader& reader, ChardevConfig& chardev) {
  chardev.signal = TRY(reader.take_bool("signal")).value_or(true);
  chardev.mux = TRY(reader.take_bool("mux")).value_or(false);
  return ok();
}

Result<void> read_file(OptionReader& reader, ChardevConfig& chardev) {
  const auto path = TRY(reader.take_string("path"));
  if (!path || path->empty()) {
    return fail(ErrorKind::kInvalidArgument, "chardev: file: no filename given");
  }
  chardev.path = *path;
  return ok();
}

Result<void> read_socket(OptionReader& reader, ChardevConfig& chardev) {
  TRY(take_server_keys(reader, chardev));
  auto path = TRY(reader.take_string("path"));
  auto host = TRY(reader.take_string("host"));
  const auto port = TRY(reader.take_string("port"));
  const auto fd = TRY(reader.take_string("fd"));
  if (path.has_value() + (host.has_value() || port.has_value()) + fd.has_value() != 1) {
    return fail(ErrorKind::kInvalidArgument, "One of 'path', 'fd' or 'host' option required");
  }
  if (path) return set_unix_path(chardev, *std::move(path));
  if (fd) return set_fd(chardev, *fd);
  if (!host) return fail(ErrorKind::kInvalidArgument, "chardev: socket: no host given");
  if (!port) return fail(ErrorKind::kInvalidArgument, "chardev: socket: no port given");
  return set_tcp_address(chardev, *std::move(host), *port);
}

struct Backend {
  std::string_view name;
  Type type;
  Result<void> (*read)(OptionReader& reader, ChardevConfig& chardev);
};
constexpr std::array kBackends{
    Backend{"null", Type::kNull, read_null},           Backend{"stdio", Type::kStdio, read_stdio},
    Backend{"file", Type::kFile, read_file},           Backend{"pty", Type::kPty, read_null},
    Backend{"socket", Type::kUnixSocket, read_socket},
};

// One function per short spelling. Each gets what follows "name:".

Result<void> short_file(std::string_view rest, ChardevConfig& chardev) {
  if (rest.empty()) {
    return fail(ErrorKind::kInvalidArgument, "chardev: file: no filename given");
  }
  chardev.type = Type::kFile;
  chardev.path = rest;
  return ok();
}

Result<void> short_unix(std::string_view rest, ChardevConfig& chardev) {
  OptionReader reader(
      TRY(parse_keyval(rest, {.implied_key = "path", .bare_words = BareWords::kBoolean})));
  TRY(take_server_keys(reader, chardev));
  auto path = TRY(reader.take_string("path"));
  TRY(set_unix_path(chardev, std::move(path).value_or("")));
  return reader.finish();
}

/// HOST:PORT, with an IPv6 address in brackets. An empty host listens everywhere.
Result<void> short_tcp(std::string_view rest, ChardevConfig& chardev) {
  OptionReader reader(
      TRY(parse_keyval(rest, {.implied_key = "address", .bare_words = BareWords::kBoolean})));
  TRY(take_server_keys(reader, chardev));
  const std::string address = TRY(reader.take_string("address")).value_or("");
  TRY(reader.finish());
  const size_t colon = address.rfind(':');
  if (colon == address.npos) {
    return fail(ErrorKind::kInvalidArgument, "'{}' is not of the form HOST:PORT", address);
  }
  std::string host = address.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != host.npos) {
    return fail(ErrorKind::kInvalidArgument, "an IPv6 address goes in brackets: [::1]:4444");
  }
  return set_tcp_address(chardev, std::move(host), std::string_view(address).substr(colon + 1));
}

struct ShortBackend {
  std::string_view prefix;
  Result<void> (*read)(std::string_view rest, ChardevConfig& chardev);
};
constexpr std::array kShortBackends{ShortBackend{"file:", short_file},
                                    ShortBackend{"unix:", short_unix},
                                    ShortBackend{"tcp:", short_tcp}};

Result<void> read_short(std::string_view text, ChardevConfig& chardev) {
  for (const ShortBackend& row : kShortBackends) {
    if (text.starts_with(row.prefix)) {
      return row.read(text.substr(row.prefix.size()), chardev);
    }
  }
  for (const Backend& row : kBackends) {
    const bool takes_nothing =
        row.type == Type::kNull || row.type == Type::kStdio || row.type == Type::kPty;
    if (takes_nothing && text == row.name) {
      chardev.type = row.type;
      return ok();
    }
  }
  return fail(ErrorKind::kInvalidArgument, "'{}' is not a valid char driver", text);
}

/// "mon:stdio": the Ctrl-A keys, and Ctrl-C goes to the guest.
Result<ChardevConfig> parse_compat(std::string_view text) {
  ChardevConfig chardev;
  chardev.wait = false;
  const bool mux = text.starts_with("mon:");
  if (mux) text.remove_prefix(4);
  TRY(read_short(text, chardev));
  if (mux && chardev.type != Type::kStdio) {
    return fail(ErrorKind::kUnsupported, "mon: can only be followed by stdio");
  }
  chardev.mux = mux;
  chardev.signal = !mux;
  return chardev;
}

}  // namespace

std::string chardev_help() {
  std::string text = "Available chardev backend types:\n";
  for (const Backend& row : kBackends) text += fmt::format("  {}\n", row.name);
  return text;
}

Result<void> add_chardev(Draft& draft, ChardevConfig chardev, const std::string& origin) {
  if (std::ranges::find(draft.config.chardevs, chardev.id, &ChardevConfig::id) !=
      draft.config.chardevs.end()) {
    return fail(ErrorKind::kExists, "Duplicate ID '{}' for chardev", chardev.id);
  }
  if (chardev.type == Type::kStdio) {
    if (!draft.stdio_origin.empty()) {
      return fail(ErrorKind::kBusy, "cannot use stdio by multiple character devices");
    }
    draft.stdio_origin = origin;
  }
  chardev.original = origin;
  draft.config.chardevs.push_back(std::move(chardev));
  return ok();
}

Result<std::string> add_compat_chardev(Draft& draft, const Given& given, std::string id,
                                       ChardevUse::Role role) {
  constexpr std::string_view kReference = "chardev:";
  if (given.value.starts_with(kReference)) {
    std::string named = given.value.substr(kReference.size());
    draft.chardev_uses.push_back(
        {named, given.origin(), fmt::format("chardev \"{}\" not found", named), role});
    return named;
  }
  ChardevConfig chardev = TRY(parse_compat(given.value));
  chardev.id = id;
  TRY(add_chardev(draft, std::move(chardev), given.origin()));
  draft.chardev_uses.push_back({id, given.origin(), "", role});
  return id;
}

Result<void> on_chardev(Draft& draft, const Given& given) {
  if (given.value == "help" || given.value == "?") {
    draft.print = chardev_help();
    return ok();
  }
  OptionReader reader(TRY(
      parse_options(given.value, {.implied_key = "backend", .bare_words = BareWords::kBoolean})));
  const std::string name = TRY(reader.take_string("backend")).value_or("");
  const auto row = std::ranges::find(kBackends, name, &Backend::name);
  if (row == kBackends.end()) {
    return fail(ErrorKind::kInvalidArgument, "'{}' is not a valid char driver name", name);
  }
  ChardevConfig chardev;
  chardev.type = row->type;
  chardev.wait = false;
  auto id = TRY(reader.take_identifier("id"));
  if (!id) return fail(ErrorKind::kInvalidArgument, "chardev: no id specified");
  chardev.id = *std::move(id);
  TRY(row->read(reader, chardev));
  TRY(reader.finish());
  return add_chardev(draft, std::move(chardev), given.origin());
}

}  // namespace rhea::vmm::cli
