// Address: where a migration goes to or comes from, as people write it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "util/error.h"

namespace rhea::migration {

/// tcp:HOST:PORT (IPv6 in brackets; an empty host: this one, any address for a listener),
/// unix:PATH, fd:NAME-OR-NUMBER, exec:COMMAND, file:PATH[,offset=BYTES].
struct Address {
  enum class Kind : uint8_t { kTcp, kUnix, kFd, kExec, kFile };

  Kind kind = Kind::kTcp;
  std::string host{};         ///< kTcp, without brackets
  std::string port{};         ///< kTcp: a number or a service's name
  std::string target{};       ///< the path, the descriptor's name or number, the command
  uint64_t offset_bytes = 0;  ///< kFile: where in the file the stream starts

  /// Whether it can be listened on, which is also whether several channels can go there.
  bool takes_connections() const noexcept { return kind == Kind::kTcp || kind == Kind::kUnix; }
  /// As it was written: "tcp:[::1]:4444".
  std::string text() const;

  bool operator==(const Address&) const = default;
};

/// Errors: kUnsupported "unknown migration protocol: .." (a monitor words this one differently);
/// kInvalidArgument for a known protocol with a malformed rest.
Result<Address> parse_address(std::string_view uri);

}  // namespace rhea::migration
