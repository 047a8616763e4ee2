// Named points at which a test may hold a thread, for deterministic replays of a race.
//
// In production no handler is installed and a point costs one relaxed load and a predicted branch,
// so the code that is tested is the code that ships.
#pragma once

#include <atomic>

namespace rhea {

/// Called with the point's name on the thread that passes it. May block: that is its purpose.
using SyncPointHandler = void (*)(const char* name);

extern std::atomic<SyncPointHandler> sync_point_handler;

}  // namespace rhea

#define RHEA_SYNC_POINT(name)                                                            \
  do {                                                                                   \
    /* acquire: pairs with the release store with which a test installs its handler */   \
    if (auto* rhea_handler = ::rhea::sync_point_handler.load(std::memory_order_acquire)) \
        [[unlikely]]                                                                     \
      rhea_handler(name);                                                                \
  } while (false)
