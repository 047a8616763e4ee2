// touched_pages(): what the host knows of a block's memory without a look at it.
#pragma once

#include <optional>
#include <vector>

#include "memory/ram_block.h"

namespace rhea::memory {

/// The pages, of kDirtyPageBytes each, that may hold something else than zeros; of all others the
/// host says that they hold nothing at all. None if it does not say, or not reliably.
///
/// To look at a page is no way to find out: the host then maps something there, and a file on a
/// tmpfs takes memory for it, which a host that has none answers with a SIGBUS.
/// Thread: any; what is stored meanwhile may be missing.
std::optional<std::vector<bool>> touched_pages(const RamBlock& block);

}  // namespace rhea::memory
