// Drain: making nodes quiet, for main to change things around them.
//
// Draining a node stops new requests where they come from: every parent up to the devices and jobs
// at the top is told (EdgeParent::drained_begin), and then main polls until the requests that were
// under way have ended. Children are left alone: they may have other users.
//
// Sections nest strictly: the last to begin is the first to end, and begin returns only when the
// sections inside it have ended, because one thread opens them, at the top, on its stack (G16). Two
// owners at once, each thinking itself alone (D10), can not be.
#pragma once

#include <chrono>
#include <functional>

#include "block/node.h"
#include "util/error.h"

namespace rhea::block {

/// How long a drain waits before it gives up: also the longest that a guest's I/O stalls for one.
inline constexpr Nanoseconds kDrainDeadline = std::chrono::seconds(5);

/// The right to send requests to a drained node: its owner's (G18). They go to nodes, never through
/// a BlockBackend, which holds requests back while it is drained.
class DrainBypass {
 public:
  DrainBypass(const DrainBypass&) = delete;
  DrainBypass& operator=(const DrainBypass&) = delete;

 private:
  friend class Graph;
  DrainBypass() = default;
};

}  // namespace rhea::block
