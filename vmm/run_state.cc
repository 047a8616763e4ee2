#include "vmm/vm_control.h"

namespace rhea::vmm {

std::string_view to_string(RunState state) noexcept {
  switch (state) {
    case RunState::kDebug:
      return "debug";
    case RunState::kInmigrate:
      return "inmigrate";
    case RunState::kInternalError:
      return "internal-error";
    case RunState::kIoError:
      return "io-error";
    case RunState::kPaused:
      return "paused";
    case RunState::kPostmigrate:
      return "postmigrate";
    case RunState::kPrelaunch:
      return "prelaunch";
    case RunState::kFinishMigrate:
      return "finish-migrate";
    case RunState::kRestoreVm:
      return "restore-vm";
    case RunState::kRunning:
      return "running";
    case RunState::kSaveVm:
      return "save-vm";
    case RunState::kShutdown:
      return "shutdown";
    case RunState::kSuspended:
      return "suspended";
    case RunState::kWatchdog:
      return "watchdog";
    case RunState::kGuestPanicked:
      return "guest-panicked";
    case RunState::kColo:
      return "colo";
  }
  RHEA_UNREACHABLE("run state {}", static_cast<unsigned>(state));
}

std::string_view to_string(Cause cause) noexcept {
  switch (cause) {
    case Cause::kHostError:
      return "host-error";
    case Cause::kHostQmpQuit:
      return "host-qmp-quit";
    case Cause::kHostQmpSystemReset:
      return "host-qmp-system-reset";
    case Cause::kHostSignal:
      return "host-signal";
    case Cause::kHostUi:
      return "host-ui";
    case Cause::kGuestShutdown:
      return "guest-shutdown";
    case Cause::kGuestReset:
      return "guest-reset";
    case Cause::kGuestPanic:
      return "guest-panic";
  }
  RHEA_UNREACHABLE("cause {}", static_cast<unsigned>(cause));
}

}  // namespace rhea::vmm
