#include "migration/status.h"

namespace rhea::migration {

std::string_view to_string(Status status) noexcept {
  switch (status) {
    case Status::kNone:
      return "none";
    case Status::kSetup:
      return "setup";
    case Status::kActive:
      return "active";
    case Status::kPreSwitchover:
      return "pre-switchover";
    case Status::kDevice:
      return "device";
    case Status::kCompleted:
      return "completed";
    case Status::kFailed:
      return "failed";
    case Status::kCancelling:
      return "cancelling";
    case Status::kCancelled:
      return "cancelled";
  }
  return "?";
}

}  // namespace rhea::migration
