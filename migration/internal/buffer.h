// Memory that a migration may fail to get without the machine's going down with it.
#pragma once

#include <new>
#include <vector>

#include "util/error.h"

namespace rhea::migration::internal {

/// For what is large. Errors: kResource.
template <class Byte>
Result<std::vector<Byte>> make_buffer(size_t bytes) {
  try {
    return std::vector<Byte>(bytes);
  } catch (const std::bad_alloc&) {
    return fail(ErrorKind::kResource, "the host has no memory for a buffer of {} bytes", bytes);
  }
}

}  // namespace rhea::migration::internal
