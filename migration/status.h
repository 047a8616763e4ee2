// Status, Progress and Phases: how far a migration is.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "util/clock.h"
#include "util/error.h"

namespace rhea::migration {

/// With QEMU's names and meaning; to_string gives "pre-switchover", ...
enum class Status : uint8_t {
  kNone,
  kSetup,
  kActive,
  kPreSwitchover,  ///< the machine stands still, and waits for migrate-continue
  kDevice,         ///< after kPreSwitchover: the rest is sent
  kCompleted,
  kFailed,
  kCancelling,
  kCancelled,
};
std::string_view to_string(Status status) noexcept;
constexpr bool is_over(Status status) noexcept {
  return status == Status::kNone || status == Status::kCompleted || status == Status::kFailed ||
         status == Status::kCancelled;
}

/// How long each part took, in the order in which they come. From `stop` on they are the downtime,
/// without a pause before the switch-over, which belongs to none of them.
struct Phases {
  Nanoseconds setup{0};             ///< connection, handshake
  std::vector<Nanoseconds> passes;  ///< over RAM while the guest ran
  Nanoseconds stop{0};              ///< until it stood still, and its disks too
  Nanoseconds last_copy{0};         ///< of RAM
  Nanoseconds device_state{0};      ///< saved and sent
  Nanoseconds load{0};              ///< until the destination was ready
  Nanoseconds resume{0};            ///< until it had the locks, and GO was sent
};

/// Thread: a copy; nobody's.
struct Progress {
  Status status = Status::kNone;
  std::optional<Error> error;  ///< why it failed
  uint64_t ram_bytes = 0;
  uint64_t transferred_bytes = 0;
  std::optional<uint64_t> precopy_bytes;  ///< of them before the machine was stopped, once it is
  uint64_t main_bytes = 0;                ///< of them on the main connection
  std::vector<uint64_t> channel_bytes;    ///< of them on each channel beside it, if there are any
  uint64_t remaining_pages = 0;           ///< dirty, as far as is known
  uint64_t normal_pages = 0, zero_pages = 0;
  uint64_t passes = 0;  ///< begun, the last one included
  uint64_t dirty_pages_per_s = 0;
  uint64_t bytes_per_s = 0;  ///< of the last whole pass
  uint64_t pages_per_s = 0;  ///< of it, too, those of zeros included
  Nanoseconds total{0};
  /// From the stop until GO was sent; one way, until all of it had reached the file or the command.
  std::optional<Nanoseconds> downtime;
  std::optional<Nanoseconds> expected_downtime;  ///< if it were stopped now
  unsigned cpu_throttle_percent = 0;             ///< as it is now; 0 when it is over
  /// Why it does not come to an end, and what would help; empty while it does.
  std::string stall;
  Phases phases;
};

}  // namespace rhea::migration
