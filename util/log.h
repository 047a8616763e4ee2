// Log messages and trace points, one logger per folder.
//
// Levels say who must act:
//   error  the operator, now: something the user asked for did not happen
//   warn   the operator, when convenient: it works, but not as asked
//   info   nobody; state changes worth keeping
//   debug  a developer of the folder
//   trace  a developer, one line per event with ids and units (RHEA_TRACE)
// Messages of a mistaken command line do not go through here: they are printed by the command line.
#pragma once

#include <fmt/core.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "util/error.h"

namespace rhea {

enum class LogLevel : uint8_t { kTrace, kDebug, kInfo, kWarn, kError, kOff };
enum class LogFolder : uint8_t { kUtil, kMemory, kBlock, kDevices, kMigration, kVmm };
inline constexpr unsigned kLogFolders = 6;

namespace internal {

// relaxed everywhere: a level decides only whether a line is printed, it orders nothing.
extern std::atomic<LogLevel> log_levels[kLogFolders];

void log_line(LogFolder folder, LogLevel level, std::string_view line);

}  // namespace internal

/// Whether a message of this level would be printed. One load and one compare.
inline bool log_enabled(LogFolder folder, LogLevel level) noexcept {
  return level >=
         internal::log_levels[static_cast<unsigned>(folder)].load(std::memory_order_relaxed);
}

void set_log_level(LogFolder folder, LogLevel level) noexcept;

/// Applies a `-d` value: "help" is not handled here; "devices=trace,memory=debug", "all=info", or a
/// bare folder name for "folder=trace". Errors: kInvalidArgument naming the bad item.
Result<void> apply_log_spec(std::string_view spec);

/// Sends the log to the end of a file instead of stderr (`-D`). Before other threads log.
/// Errors: the file can not be opened; its folder is not made.
Result<void> log_to_file(const std::string& path);

}  // namespace rhea

#define RHEA_LOG(folder, level, ...)                                                 \
  do {                                                                               \
    if (::rhea::log_enabled(::rhea::LogFolder::folder, ::rhea::LogLevel::level)) {   \
      ::rhea::internal::log_line(::rhea::LogFolder::folder, ::rhea::LogLevel::level, \
                                 ::fmt::format(__VA_ARGS__));                        \
    }                                                                                \
  } while (false)

/// A trace point: RHEA_TRACE(kDevices, "serial_write reg={} value={:#x}", reg, value).
/// The arguments are not evaluated, and one predicted branch is all it costs, when it is off.
#define RHEA_TRACE(folder, ...)                                                                  \
  do {                                                                                           \
    if (::rhea::log_enabled(::rhea::LogFolder::folder, ::rhea::LogLevel::kTrace)) [[unlikely]] { \
      ::rhea::internal::log_line(::rhea::LogFolder::folder, ::rhea::LogLevel::kTrace,            \
                                 ::fmt::format(__VA_ARGS__));                                    \
    }                                                                                            \
  } while (false)
