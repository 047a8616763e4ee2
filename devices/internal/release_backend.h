// Letting go of a disk's block backend.
#pragma once

#include "block/backend.h"
#include "util/log.h"

namespace rhea::devices::internal {

/// Takes the node out of a backend without requests, for good.
///
/// A change of the graph waits for every disk's requests, another's among them. It has to succeed:
/// an edge can not outlive its user.
inline void release_backend(Gs& gs, block::BlockBackend& backend) {
  for (;;) {
    const auto removed = backend.remove(gs);
    if (removed.has_value()) break;
    RHEA_LOG(kDevices, kWarn, "{} can not let go of its disk yet: {}", backend.name(),
             removed.error().message());
    if (removed.error().kind() != ErrorKind::kTimeout) break;
  }
  backend.close();
}

}  // namespace rhea::devices::internal
