#include "devices/virtio/virt_queue.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "block/io_vector.h"
#include "util/check.h"

namespace rhea::devices {
namespace {

using memory::GuestAddr;
using Access = memory::GuestMemory::Access;

constexpr uint64_t kAvailHeader = 4;  // flags, idx
constexpr uint64_t kUsedHeader = 4;
constexpr uint64_t kEvent = 2;  // used_event, avail_event

constexpr uint64_t available_bytes(uint16_t size) { return kAvailHeader + 2 * size + kEvent; }
constexpr uint64_t used_bytes(uint16_t size) {
  return kUsedHeader + sizeof(VirtqUsedElem) * size + kEvent;
}

/// A field that the other side changes while we look: one load or store, as wide as it is.
uint16_t load(const std::byte* at, std::memory_order order) {
  auto* word = const_cast<uint16_t*>(reinterpret_cast<const uint16_t*>(at));
  return std::atomic_ref<uint16_t>(*word).load(order);
}
void store(std::byte* at, uint16_t value, std::memory_order order) {
  std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(at)).store(value, order);
}
static_assert(std::endian::native == std::endian::little, "rings are little-endian");

bool has(const VirtqDesc& desc, VirtqDescFlag flag) {
  return (desc.flags & std::to_underlying(flag)) != 0;
}

/// A copy that the compiler can not read twice from the ring.
VirtqDesc copy_desc(const std::byte* at) {
  VirtqDesc desc;
  std::memcpy(&desc, at, sizeof desc);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  return desc;
}

bool inside(uint64_t offset, uint64_t size, uint64_t limit) {
  return offset <= limit && size <= limit - offset;
}

}  // namespace

bool VirtqElement::copy_out(uint64_t offset, std::span<std::byte> data) const {
  if (!inside(offset, data.size(), readable_bytes_)) return false;
  block::IoVector{readable(), readable_bytes_}.copy_to(offset, data);
  return true;
}

bool VirtqElement::copy_in(uint64_t offset, std::span<const std::byte> data) const {
  if (!inside(offset, data.size(), writable_bytes_)) return false;
  block::IoVector{writable(), writable_bytes_}.copy_from(offset, data);
  return true;
}

void VirtqElement::skip_readable(uint64_t size) {
  readable_bytes_ -= size;
  while (size != 0) {
    iovec& piece = pieces_[first_readable_];
    const uint64_t part = std::min<uint64_t>(size, piece.iov_len);
    piece.iov_base = static_cast<std::byte*>(piece.iov_base) + part;
    piece.iov_len -= part;
    size -= part;
    if (piece.iov_len != 0) continue;
    ++first_readable_;
    --readable_pieces_;
  }
}

std::byte* VirtqElement::take_last_writable() {
  iovec& last = pieces_[first_writable() + writable_pieces_ - 1];
  --last.iov_len;
  if (last.iov_len == 0) --writable_pieces_;
  return static_cast<std::byte*>(last.iov_base) + last.iov_len;
}

void VirtqElement::skip_writable(uint64_t size) {
  writable_bytes_ -= size;
  skipped_bytes_ += size;
  while (size != 0) {
    iovec& piece = pieces_[first_writable()];
    const uint64_t part = std::min<uint64_t>(size, piece.iov_len);
    size -= part;
    if (part == piece.iov_len) {
      ++skipped_pieces_;
      --writable_pieces_;
      continue;
    }
    cut_ = {piece.iov_base, part};
    piece.iov_base = static_cast<std::byte*>(piece.iov_base) + part;
    piece.iov_len -= part;
  }
}

void VirtqElement::write_skipped(std::span<const std::byte> data) const {
  const auto whole = block::IoVector::of(
      std::span(pieces_).subspan(first_writable() - skipped_pieces_, skipped_pieces_));
  const size_t part = std::min<size_t>(data.size(), whole.size);
  whole.copy_from(0, data.first(part));
  if (part == data.size()) return;
  block::IoVector{std::span(&cut_, 1), cut_.iov_len}.copy_from(0, data.subspan(part));
}

VirtQueue::VirtQueue(const VirtQueueConfig& config, Features features, memory::GuestMemory memory)
    : config_(config), features_(features), memory_(memory) {}

VirtQueue::~VirtQueue() { RHEA_CHECK(in_flight_ == 0, "a queue goes while it has requests"); }

Result<std::unique_ptr<VirtQueue>> VirtQueue::create(const VirtQueueConfig& config,
                                                     Features features,
                                                     memory::GuestMemory memory) {
  if (!std::has_single_bit(config.size) || config.size > kMaxQueueSize) {
    return rhea::fail(ErrorKind::kInvalidArgument, "a queue of {} entries", config.size);
  }
  // [virtio-1.2 2.7.10.1]
  if (config.descriptors % 16 != 0 || config.available % 2 != 0 || config.used % 4 != 0) {
    return rhea::fail(ErrorKind::kInvalidArgument, "a misaligned ring");
  }
  auto queue = std::unique_ptr<VirtQueue>(new VirtQueue(config, features, memory));
  queue->view_ = std::make_unique<internal::QueueView>(memory.pin());
  queue->rings_ = TRY(queue->map_rings(queue->view_->pin));
  return queue;
}

Result<VirtQueue::Rings> VirtQueue::map_rings(const memory::GuestMemory::Pin& pin) const {
  const auto map = [&pin](uint64_t address, uint64_t size, Access access) -> Result<std::byte*> {
    iovec piece;
    const auto pieces = pin.map(GuestAddr{address}, size, access, std::span(&piece, 1));
    if (!pieces || piece.iov_len != size) {
      return rhea::fail(ErrorKind::kInvalidArgument, "a ring at {:#x} that is not in RAM", address);
    }
    return static_cast<std::byte*>(piece.iov_base);
  };
  Rings rings;
  rings.descriptors =
      TRY(map(config_.descriptors, sizeof(VirtqDesc) * uint64_t{config_.size}, Access::kRead));
  // Read-only for us, but for its atomics.
  rings.available = TRY(map(config_.available, available_bytes(config_.size), Access::kRead));
  rings.used = TRY(map(config_.used, used_bytes(config_.size), Access::kWrite));
  return rings;
}

void VirtQueue::begin_pass() {
  std::erase_if(old_views_, [](const auto& view) { return view->requests == 0; });
  if (memory_.is_current(view_->pin)) [[likely]]
    return;
  auto next = std::make_unique<internal::QueueView>(memory_.pin());
  auto rings = map_rings(next->pin);
  if (!rings) {
    fail("its rings are in RAM no more");
    return;
  }
  if (view_->requests != 0) old_views_.push_back(std::move(view_));
  view_ = std::move(next);
  rings_ = *rings;
}

uint16_t VirtQueue::available_index() const noexcept {
  // acquire: pairs with the driver's barrier between entry and index [virtio-1.2 2.7.13.3]
  return load(rings_.available + 2, std::memory_order_acquire);
}

bool VirtQueue::has_available() const noexcept {
  return !broken_ && (available_index() != next_available_ || !again_.empty());
}

void VirtQueue::resume_at(uint16_t next_available, std::vector<uint16_t> again) {
  next_available_ = next_available;
  next_used_ = published_ = static_cast<uint16_t>(next_available - again.size());
  again_ = std::move(again);
  std::ranges::reverse(again_);
}

bool VirtQueue::fail(const char* reason) noexcept {
  if (!broken_) reason_ = reason;
  broken_ = true;
  return false;
}

bool VirtQueue::pop(VirtqElement& element) {
  if (!has_available()) return false;
  if (in_flight_ >= config_.size) return fail("more requests than descriptors");
  if (!take_next(element)) return false;
  ++in_flight_;
  ++view_->requests;
  element.view_ = view_.get();
  return true;
}

bool VirtQueue::take_next(VirtqElement& element) {
  if (!again_.empty()) [[unlikely]] {
    const uint16_t head = again_.back();
    again_.pop_back();
    return take_chain(element, head);
  }
  const auto offered = static_cast<uint16_t>(available_index() - next_available_);
  if (offered > config_.size) return fail("more is available than the queue holds");
  const uint64_t slot = next_available_ & (config_.size - 1);
  const uint16_t head = load(rings_.available + kAvailHeader + 2 * slot, std::memory_order_relaxed);
  if (!take_chain(element, head)) return false;
  ++next_available_;
  return true;
}

bool VirtQueue::take_chain(VirtqElement& element, uint16_t head) {
  if (head >= config_.size) return fail("the head of a chain is outside the table");
  element.head_ = head;
  element.first_readable_ = 0;
  element.readable_pieces_ = element.skipped_pieces_ = element.writable_pieces_ = 0;
  element.write_ranges_ = 0;
  element.readable_bytes_ = element.skipped_bytes_ = element.writable_bytes_ = 0;
  element.cut_ = {};
  uint32_t budget = config_.size;  // descriptors, so that a loop ends
  return walk(element, {Table::Kind::kRing, rings_.descriptors, config_.size}, head, budget);
}

bool VirtQueue::walk(VirtqElement& element, Table table, uint16_t index, uint32_t& budget) {
  for (;;) {
    if (index >= table.entries) return fail("a descriptor is outside its table");
    if (budget-- == 0) return fail("a chain is longer than the queue, or a loop");
    const VirtqDesc desc = copy_desc(table.base + sizeof(VirtqDesc) * uint64_t{index});
    if (has(desc, VirtqDescFlag::kIndirect)) {
      // [virtio-1.2 2.7.5.3.1]
      if (table.kind == Table::Kind::kIndirect) return fail("an indirect table inside another");
      if (!indirect()) return fail("an indirect table that was not negotiated");
      if (has(desc, VirtqDescFlag::kNext))
        return fail("an indirect table in the middle of a chain");
      return take_indirect(desc, element, budget);
    }
    if (!add_piece(desc, element)) return false;
    if (!has(desc, VirtqDescFlag::kNext)) return true;
    index = desc.next;
  }
}

bool VirtQueue::take_indirect(const VirtqDesc& desc, VirtqElement& element, uint32_t& budget) {
  const uint32_t size = desc.length;
  if (size == 0 || size % sizeof(VirtqDesc) != 0) return fail("an indirect table of an odd size");
  const uint32_t entries = size / sizeof(VirtqDesc);
  // A longer table has no meaning: no chain may be longer than the queue.
  const uint32_t used = std::min<uint32_t>(entries, config_.size);
  iovec piece;
  const uint64_t bytes = sizeof(VirtqDesc) * uint64_t{used};
  const auto mapped =
      view_->pin.map(GuestAddr{desc.address}, bytes, Access::kRead, std::span(&piece, 1));
  if (!mapped || piece.iov_len != bytes) return fail("an indirect table that is not in RAM");
  ++budget;  // the one that led here is not part of the chain
  const auto* base = static_cast<const std::byte*>(piece.iov_base);
  return walk(element, {Table::Kind::kIndirect, base, used}, 0, budget);
}

bool VirtQueue::add_piece(const VirtqDesc& desc, VirtqElement& element) {
  const bool writes = has(desc, VirtqDescFlag::kWrite);
  const uint32_t length = desc.length;
  if (length == 0) return fail("a descriptor of no bytes");
  // [virtio-1.2 2.7.4.2]
  if (!writes && element.writable_pieces_ != 0) return fail("readable memory after writable");
  // [virtio-1.2 2.7.5.1]; and the used ring could not tell of more
  if (element.readable_bytes_ + element.writable_bytes_ + length > UINT32_MAX) {
    return fail("a chain of more than 4 GiB");
  }
  const size_t used = element.readable_pieces_ + element.writable_pieces_;
  const auto pieces =
      view_->pin.map(GuestAddr{desc.address}, length, writes ? Access::kWrite : Access::kRead,
                     std::span(element.pieces_).subspan(used));
  if (!pieces) {
    return fail(pieces.error().kind() == ErrorKind::kResource ? "a chain in too many pieces"
                                                              : "memory that is not RAM");
  }
  if (writes) {
    element.writes_[element.write_ranges_++] = {desc.address, length};
    element.writable_pieces_ += *pieces;
    element.writable_bytes_ += length;
  } else {
    element.readable_pieces_ += *pieces;
    element.readable_bytes_ += length;
  }
  return true;
}

/// Whatever became of the request: one that failed, or that a reset took away, may have written to
/// its memory before, and that is what the guest sees there from now on.
void VirtQueue::release(VirtqElement& element) {
  for (const VirtqElement::Range& range : std::span(element.writes_).first(element.write_ranges_)) {
    element.view_->pin.written(GuestAddr{range.address}, range.length);
  }
  --element.view_->requests;
  element.view_ = nullptr;
  --in_flight_;
}

void VirtQueue::push(VirtqElement& element, uint32_t written) {
  RHEA_CHECK(written <= element.skipped_bytes_ + element.writable_bytes_,
             "more written than there was room for");
  const uint16_t head = element.head_;
  release(element);
  if (broken_) return;
  const uint64_t offset = kUsedHeader + sizeof(VirtqUsedElem) * (next_used_ & (config_.size - 1U));
  const VirtqUsedElem used{.id = head, .length = written};
  std::memcpy(rings_.used + offset, &used, sizeof used);
  mark_used(offset, sizeof used);
  ++next_used_;
}

void VirtQueue::drop(VirtqElement& element) { release(element); }

void VirtQueue::reject(VirtqElement& element, const char* reason) {
  release(element);
  fail(reason);
}

void VirtQueue::mark_used(uint64_t offset, uint64_t size) {
  view_->pin.written(GuestAddr{config_.used + offset}, size);
}

bool VirtQueue::publish() {
  if (broken_ || published_ == next_used_) return false;
  const uint16_t before = std::exchange(published_, next_used_);
  // release: entries before the index; pairs with the driver's read barrier [virtio-1.2 2.7.14]
  store(rings_.used + 2, next_used_, std::memory_order_release);
  mark_used(0, kUsedHeader);
  // The index before the look at what the driver wants to hear; pairs with the barrier between the
  // driver's used_event (or flags) and its look at the index. [virtio-1.2 2.7.7.2]
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return wants_interrupt_since(before);
}

bool VirtQueue::wants_interrupt_since(uint16_t before) const noexcept {
  if (!event_idx()) {
    return (load(rings_.available, std::memory_order_relaxed) & kAvailNoInterrupt) == 0;
  }
  const uint16_t event =
      load(rings_.available + kAvailHeader + 2 * uint64_t{config_.size}, std::memory_order_relaxed);
  // Whether event lies in [before, published_), modulo 2^16.
  return static_cast<uint16_t>(published_ - event - 1) < static_cast<uint16_t>(published_ - before);
}

bool VirtQueue::may_wait_for_interrupt() const noexcept {
  return !broken_ && wants_interrupt_since(static_cast<uint16_t>(published_ - config_.size));
}

void VirtQueue::set_used_flags(uint16_t flags) {
  store(rings_.used, flags, std::memory_order_relaxed);
  mark_used(0, kUsedHeader);
}

void VirtQueue::set_avail_event(uint16_t index) {
  const uint64_t offset = kUsedHeader + sizeof(VirtqUsedElem) * uint64_t{config_.size};
  store(rings_.used + offset, index, std::memory_order_relaxed);
  mark_used(offset, kEvent);
}

void VirtQueue::suppress_notifications() {
  if (broken_ || !std::exchange(notifications_on_, false)) return;
  if (!event_idx()) {
    set_used_flags(kUsedNoNotify);
  } else if (!has_available()) {
    // The driver rings as it passes avail_event: one that lies behind it has passed, and has so
    // already if there is something.
    set_avail_event(static_cast<uint16_t>(next_available_ - 1));
  }
}

bool VirtQueue::enable_notifications() {
  if (broken_) return true;
  notifications_on_ = true;
  if (event_idx()) {
    set_avail_event(next_available_);
  } else {
    set_used_flags(0);
  }
  // Our wish before the look; pairs with the barrier between the driver's index and its look at
  // our wish. [virtio-1.2 2.7.10]
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return !has_available();
}

}  // namespace rhea::devices
