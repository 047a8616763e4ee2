#include "block/filter_driver.h"

#include "block/node.h"

namespace rhea::block {

Result<void> FilterDriver::open(Gs&, OpenRequest& request) {
  child_ = TRY(request.open_child(child_option_));
  return ok();
}

Result<std::unique_ptr<ReopenState>> FilterDriver::reopen(Gs&, OpenRequest& request) {
  TRY(request.open_child(child_option_));
  return std::unique_ptr<ReopenState>();
}

Node& FilterDriver::below() const { return *child_->node(); }
Node& FilterDriver::below(Gs& gs) const { return *child_->node(gs); }

Result<uint64_t> FilterDriver::measure(Gs& gs) { return below(gs).length(); }
BlockLimits FilterDriver::limits(Gs& gs) const { return below(gs).limits(); }

Result<void> FilterDriver::co_read(Co& co, uint64_t offset, IoVector memory) {
  return below().co_read(co, offset, memory);
}

Result<void> FilterDriver::co_write(Co& co, uint64_t offset, IoVector memory, WriteFlags flags) {
  return below().co_write(co, offset, memory, flags);
}

Result<void> FilterDriver::co_write_zeroes(Co& co, uint64_t offset, uint64_t size,
                                           WriteFlags flags) {
  return below().co_write_zeroes(co, offset, size, flags);
}

Result<void> FilterDriver::co_discard(Co& co, uint64_t offset, uint64_t size) {
  return below().co_discard(co, offset, size);
}

Result<void> FilterDriver::co_flush(Co& co) { return below().co_flush(co); }

Result<void> FilterDriver::co_resize(Co& co, uint64_t size) { return below().co_resize(co, size); }

Result<BlockStatus> FilterDriver::co_status(Co& co, uint64_t offset, uint64_t size) {
  return below().co_status(co, offset, size);
}

}  // namespace rhea::block
