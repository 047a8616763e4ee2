#include "block/drivers/throttle.h"

#include "block/graph.h"
#include "block/node.h"

namespace rhea::block {

Result<ThrottleGroup*> Throttle::take_group(Gs& gs, OpenRequest& request) {
  const std::string id = TRY(request.options().take_required("throttle-group"));
  ThrottleGroup* group = request.graph().throttle_groups().find(gs, id);
  if (group == nullptr) {
    return fail(ErrorKind::kNotFound, "Throttle group '{}' does not exist", id);
  }
  return group;
}

Result<void> Throttle::open(Gs& gs, OpenRequest& request) {
  ThrottleGroup* group = TRY(take_group(gs, request));
  TRY(FilterDriver::open(gs, request));
  member_ = std::make_unique<ThrottleMember>(*group, drained_);
  return ok();
}

/// Nobody waits in either group when it happens: the node is drained.
class Throttle::Reopen final : public ReopenState {
 public:
  Reopen(Throttle& driver, ThrottleGroup& group) : driver_(driver), group_(group) {}
  void commit(GraphWrite&) noexcept override {
    driver_.member_ = std::make_unique<ThrottleMember>(group_, driver_.drained_);
  }

 private:
  Throttle& driver_;
  ThrottleGroup& group_;
};

Result<std::unique_ptr<ReopenState>> Throttle::reopen(Gs& gs, OpenRequest& request) {
  ThrottleGroup* group = TRY(take_group(gs, request));
  TRY(FilterDriver::reopen(gs, request));
  if (group == &member_->group()) return std::unique_ptr<ReopenState>();
  return std::make_unique<Reopen>(*this, *group);
}

void Throttle::drained_begin() noexcept {
  drained_ = true;
  if (member_ != nullptr) member_->suspend();
}

void Throttle::drained_end() noexcept {
  drained_ = false;
  if (member_ != nullptr) member_->resume();
}

Result<void> Throttle::co_read(Co& co, uint64_t offset, IoVector memory) {
  member_->co_admit(co, ThrottleDirection::kRead, memory.size);
  return below().co_read(co, offset, memory);
}

Result<void> Throttle::co_write(Co& co, uint64_t offset, IoVector memory, WriteFlags flags) {
  member_->co_admit(co, ThrottleDirection::kWrite, memory.size);
  return below().co_write(co, offset, memory, flags);
}

Result<void> Throttle::co_write_zeroes(Co& co, uint64_t offset, uint64_t size, WriteFlags flags) {
  member_->co_admit(co, ThrottleDirection::kWrite, size);
  return below().co_write_zeroes(co, offset, size, flags);
}

Result<void> Throttle::co_discard(Co& co, uint64_t offset, uint64_t size) {
  member_->co_admit(co, ThrottleDirection::kWrite, size);
  return below().co_discard(co, offset, size);
}

}  // namespace rhea::block
