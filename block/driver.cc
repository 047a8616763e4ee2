#include "block/driver.h"

#include "block/node.h"

namespace rhea::block {

Result<std::unique_ptr<ReopenState>> BlockDriver::reopen(Gs&, OpenRequest&) {
  return fail(ErrorKind::kUnsupported, "Block driver '{}' can not change its options", name());
}

Permissions BlockDriver::child_permissions(const Edge&, const Permissions& needs) const {
  return {.taken = needs.taken | Perm::kConsistentRead, .shared = needs.shared};
}

Result<void> BlockDriver::co_write_zeroes(Co&, uint64_t, uint64_t, WriteFlags) {
  return fail(ErrorKind::kUnsupported, "'{}' can not write zeroes", name());
}

Result<void> BlockDriver::co_discard(Co&, uint64_t, uint64_t) {
  return fail(ErrorKind::kUnsupported, "'{}' can not discard", name());
}

Result<void> BlockDriver::co_resize(Co&, uint64_t) {
  return fail(ErrorKind::kUnsupported, "Image format driver '{}' does not support resize", name());
}

Result<BlockStatus> BlockDriver::co_status(Co&, uint64_t, uint64_t size) {
  return BlockStatus{.bytes = size};
}

}  // namespace rhea::block
