#include "block/drivers/raw.h"

#include <algorithm>

#include "block/node.h"

namespace rhea::block {

Result<Raw::Window> Raw::take_window(OptionReader& reader) {
  Window window;
  window.offset = TRY(reader.take_size("offset")).value_or(0);
  window.size = TRY(reader.take_size("size"));
  if (window.size && *window.size % 512 != 0) {
    return fail(ErrorKind::kInvalidArgument, "Specified size is not multiple of 512");
  }
  return window;
}

Result<void> Raw::check(const Window& window, uint64_t length) {
  if (window.offset > length) {
    return fail(ErrorKind::kInvalidArgument,
                "Offset ({}) cannot be greater than size of the containing file ({})",
                window.offset, length);
  }
  if (window.size && *window.size > length - window.offset) {
    return fail(ErrorKind::kInvalidArgument,
                "The sum of offset ({}) and size ({}) has to be smaller or equal to the actual "
                "size of the containing file ({})",
                window.offset, *window.size, length);
  }
  return ok();
}

Result<void> Raw::open(Gs& gs, OpenRequest& request) {
  window_ = TRY(take_window(request.options()));
  file_ = TRY(request.open_child("file"));
  return check(window_, file_->node(gs)->length());
}

class Raw::Reopen final : public ReopenState {
 public:
  Reopen(Raw& driver, const Window& window) : driver_(driver), window_(window) {
    driver_.planned_ = &window_;
  }
  ~Reopen() override { driver_.planned_ = nullptr; }
  void commit(GraphWrite&) noexcept override { driver_.window_ = window_; }

 private:
  Raw& driver_;
  const Window window_;
};

Result<std::unique_ptr<ReopenState>> Raw::reopen(Gs&, OpenRequest& request) {
  const Window window = TRY(take_window(request.options()));
  const Edge* file = TRY(request.open_child("file"));
  TRY(check(window, request.child_of(*file).length()));
  return std::make_unique<Reopen>(*this, window);
}

/// What a window shows moves or ends if somebody else resizes the file.
Permissions Raw::child_permissions(const Edge& child, const Permissions& needs) const {
  Permissions permissions = BlockDriver::child_permissions(child, needs);
  const Window& window = planned_ != nullptr ? *planned_ : window_;
  if (window.size) permissions.shared = permissions.shared & ~Perm::kResize;
  return permissions;
}

Result<uint64_t> Raw::measure(Gs& gs) {
  const uint64_t length = file_->node(gs)->length();
  const uint64_t rest = length - std::min(length, window_.offset);
  return std::min(rest, window_.size.value_or(rest));
}

Result<void> Raw::co_read(Co& co, uint64_t offset, IoVector memory) {
  return file_->node()->co_read(co, window_.offset + offset, memory);
}

Result<void> Raw::co_write(Co& co, uint64_t offset, IoVector memory, WriteFlags flags) {
  return file_->node()->co_write(co, window_.offset + offset, memory, flags);
}

Result<void> Raw::co_write_zeroes(Co& co, uint64_t offset, uint64_t size, WriteFlags flags) {
  return file_->node()->co_write_zeroes(co, window_.offset + offset, size, flags);
}

Result<void> Raw::co_discard(Co& co, uint64_t offset, uint64_t size) {
  return file_->node()->co_discard(co, window_.offset + offset, size);
}

Result<void> Raw::co_flush(Co& co) { return file_->node()->co_flush(co); }

Result<void> Raw::co_resize(Co& co, uint64_t size) {
  if (window_.size) {
    return fail(ErrorKind::kUnsupported, "Cannot resize fixed-size raw disks");
  }
  if (size > static_cast<uint64_t>(INT64_MAX) - std::min<uint64_t>(INT64_MAX, window_.offset)) {
    return fail(ErrorKind::kInvalidArgument, "Disk size too large for the chosen offset");
  }
  return file_->node()->co_resize(co, window_.offset + size);
}

Result<BlockStatus> Raw::co_status(Co& co, uint64_t offset, uint64_t size) {
  return file_->node()->co_status(co, window_.offset + offset, size);
}

}  // namespace rhea::block
