#include "util/sync_point.h"

namespace rhea {

std::atomic<SyncPointHandler> sync_point_handler{nullptr};

}  // namespace rhea
