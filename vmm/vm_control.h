// VmControl: what a monitor may ask of the running machine. QMP and the console stand on this; the
// machine implements it, tests fake it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "devices/io_error.h"
#include "util/bql.h"
#include "util/error.h"

namespace rhea::vmm {

/// The machine's state, with QEMU's names (to_string gives "inmigrate", "prelaunch", ...).
enum class RunState : uint8_t {
  kDebug,
  kInmigrate,
  kInternalError,
  kIoError,
  kPaused,
  kPostmigrate,
  kPrelaunch,
  kFinishMigrate,
  kRestoreVm,
  kRunning,
  kSaveVm,
  kShutdown,
  kSuspended,
  kWatchdog,
  kGuestPanicked,
  kColo,
};
std::string_view to_string(RunState state) noexcept;

/// Why the machine is reset or shut down; to_string gives QEMU's ShutdownCause names.
enum class Cause : uint8_t {
  kHostError,           // "host-error"
  kHostQmpQuit,         // "host-qmp-quit"
  kHostQmpSystemReset,  // "host-qmp-system-reset"
  kHostSignal,          // "host-signal"
  kHostUi,              // "host-ui"
  kGuestShutdown,       // "guest-shutdown"
  kGuestReset,          // "guest-reset"
  kGuestPanic,          // "guest-panic"
};
std::string_view to_string(Cause cause) noexcept;
/// Whether the guest itself asked.
constexpr bool is_guest(Cause cause) noexcept { return cause >= Cause::kGuestShutdown; }

struct VcpuInfo {
  unsigned index = 0;
  int thread_id = 0;
  unsigned socket = 0, core = 0, thread = 0;
};

struct KvmInfo {
  bool enabled = false;
  bool present = false;
};

/// A disk's request failed, and what is done about it.
struct DiskError {
  std::string drive_id;        ///< empty for a disk of -blockdev
  std::string qdev;            ///< the device's path
  bool tracks_status = false;  ///< whether query-block shows an io-status
  devices::IoError error;
};

/// What happened to the machine, for whoever publishes events.
/// Thread: main, service context, BQL held.
class VmObserver {
 public:
  virtual ~VmObserver() = default;
  virtual void stopped() {}                     // STOP
  virtual void resumed() {}                     // RESUME
  virtual void was_reset(Cause) {}              // RESET {guest, reason}
  virtual void powerdown_requested() {}         // POWERDOWN
  virtual void shutting_down(Cause) {}          // SHUTDOWN {guest, reason}
  virtual void disk_error(const DiskError&) {}  // BLOCK_IO_ERROR
};

/// Thread: main, service context, BQL held. Each action has told the observers when it returns, so
/// a monitor's event is on the wire before its reply.
class VmControl {
 public:
  virtual ~VmControl() = default;
  virtual RunState state() const = 0;
  virtual std::optional<std::string> name() const = 0;
  virtual std::string uuid() const = 0;  ///< all-zero text when none was given
  virtual KvmInfo kvm() const = 0;
  virtual std::vector<VcpuInfo> vcpus() const = 0;

  virtual Result<void> stop() REQUIRES(bql) = 0;
  virtual Result<void> cont() REQUIRES(bql) = 0;
  virtual Result<void> reset(Cause cause) REQUIRES(bql) = 0;
  virtual Result<void> powerdown() REQUIRES(bql) = 0;
  /// Leaves the main loop after the current turn; the process then ends with status 0.
  virtual void quit(Cause cause) REQUIRES(bql) = 0;

  virtual void add_observer(VmObserver& observer) REQUIRES(bql) = 0;
  virtual void remove_observer(VmObserver& observer) REQUIRES(bql) = 0;
};

}  // namespace rhea::vmm
