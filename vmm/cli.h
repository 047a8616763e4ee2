// The command line: QEMU's syntax and, where people match on it, QEMU's texts.
#pragma once

#include <span>
#include <string>
#include <variant>

#include "util/error.h"
#include "vmm/config.h"

namespace rhea::vmm {

/// -help, -version, "-machine help" and their like: print it on stdout and end with status 0.
struct PrintAndExit {
  std::string text;  ///< ends in a newline
};

using CliOutcome = std::variant<VmConfig, PrintAndExit>;

/// Parses argv without the program's name. Touches nothing of the host: whether a file, a socket or
/// /dev/kvm is there is found out when the machine is built.
/// Errors: kInvalidArgument or kUnsupported; the message is one line, "-OPT VALUE: reason", with
/// control characters escaped.
Result<CliOutcome> parse_command_line(std::span<const char* const> args);

/// Acts on -D and -d. Errors: as above, "-d VALUE: reason".
Result<void> apply_logging(const VmConfig& config);

}  // namespace rhea::vmm
