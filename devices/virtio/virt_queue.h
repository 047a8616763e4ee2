// VirtQueue: the device's side of a split virtqueue. [virtio-1.2 2.7]
#pragma once

#include <sys/uio.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "devices/virtio/virtio_spec.h"
#include "memory/guest_memory.h"
#include "util/error.h"

namespace rhea::devices {

/// What the driver wrote about a queue. Not to be trusted.
struct VirtQueueConfig {
  uint16_t size = 0;
  uint64_t descriptors = 0;  ///< guest addresses
  uint64_t available = 0;
  uint64_t used = 0;
};

namespace internal {

/// One picture of guest memory and how many requests still use it: a count of the queue's own, so
/// that a request costs no shared counter (G28).
struct QueueView {
  explicit QueueView(memory::GuestMemory::Pin p) : pin(std::move(p)) {}
  memory::GuestMemory::Pin pin;
  uint32_t requests = 0;
};

}  // namespace internal

/// One request as the driver described it: memory to read from, then memory to write to. Large, and
/// left unset where it is not used: it lies on the stack of the request's coroutine.
/// Invariants: every piece is guest RAM that stays while the request lasts.
class VirtqElement {
 public:
  /// No chain is longer than its queue; a descriptor may take more pieces where RAM blocks meet.
  static constexpr size_t kMaxPieces = kMaxQueueSize;

  VirtqElement() {}  // NOLINT: the arrays are meant to stay unset
  VirtqElement(const VirtqElement&) = delete;
  VirtqElement& operator=(const VirtqElement&) = delete;

  /// The driver's data, then the device's to fill in.
  std::span<const iovec> readable() const {
    return {pieces_.data() + first_readable_, readable_pieces_};
  }
  std::span<const iovec> writable() const {
    return {pieces_.data() + first_writable(), writable_pieces_};
  }
  uint64_t readable_bytes() const noexcept { return readable_bytes_; }
  uint64_t writable_bytes() const noexcept { return writable_bytes_; }

  /// Copies of [offset, offset + size) of the readable or to the writable memory, however the
  /// driver has cut it [virtio-1.2 2.7.4]; false, and nothing is copied, if it is shorter.
  bool copy_out(uint64_t offset, std::span<std::byte> data) const;
  bool copy_in(uint64_t offset, std::span<const std::byte> data) const;

  /// Takes the first `size` bytes, a header that was copied out, off the readable memory; and the
  /// last byte, a status, off the writable: where it is. Both are there (the caller has checked).
  void skip_readable(uint64_t size);
  std::byte* take_last_writable();
  /// Takes the first `size` bytes, a response before data, off the writable memory. They are there
  /// (the caller has checked), and count for push().
  void skip_writable(uint64_t size);
  /// Fills what was taken off, from its start; `data` is no larger.
  void write_skipped(std::span<const std::byte> data) const;

  uint16_t head() const noexcept { return head_; }

 private:
  friend class VirtQueue;
  struct Range {
    uint64_t address;
    uint32_t length;
  };
  size_t first_writable() const noexcept {
    return first_readable_ + readable_pieces_ + skipped_pieces_;
  }
  std::array<iovec, kMaxPieces> pieces_;
  std::array<Range, kMaxPieces> writes_;  // what to mark dirty
  size_t first_readable_ = 0;             // pieces of a header that was skipped
  size_t readable_pieces_ = 0;
  size_t skipped_pieces_ = 0;  // whole ones, of the writable
  size_t writable_pieces_ = 0;
  size_t write_ranges_ = 0;
  iovec cut_{};  // what was skipped of the piece behind the whole ones
  uint64_t readable_bytes_ = 0;
  uint64_t skipped_bytes_ = 0;  // of the writable
  uint64_t writable_bytes_ = 0;
  internal::QueueView* view_ = nullptr;
  uint16_t head_ = 0;
};

/// The rings of one queue, while it runs.
///
/// Every number that the driver wrote is read once, checked, and used only as the copy that was
/// checked. A driver that breaks the rules breaks its queue: broken() is true from then on, nothing
/// more is taken or given, and the device tells the driver that it needs a reset.
///
/// Thread: the home thread of the queue's context. Owns: pictures of guest memory. No allocation
/// but when the guest's memory map has changed.
/// Invariants: every element that pop() gave comes back by push() or drop() before the end, and
/// all of its writable memory is marked dirty then.
class VirtQueue {
 public:
  enum class Features : uint8_t { kNone = 0, kIndirect = 1, kEventIdx = 2, kBoth = 3 };

  /// Errors: kInvalidArgument, saying what is wrong: a size that is no power of two or too large, a
  /// ring that is misaligned or not all in RAM.
  static Result<std::unique_ptr<VirtQueue>> create(const VirtQueueConfig& config, Features features,
                                                   memory::GuestMemory memory);
  ~VirtQueue();
  VirtQueue(const VirtQueue&) = delete;
  VirtQueue& operator=(const VirtQueue&) = delete;

  /// Goes on where another device stopped, before the first pop(): `next_available` is the next
  /// entry to take, and the chains of `again` were taken there and not given back. They come first.
  void resume_at(uint16_t next_available, std::vector<uint16_t> again);
  uint16_t next_available() const noexcept { return next_available_; }
  /// Of those chains the ones that pop() has not given yet.
  const std::vector<uint16_t>& again() const noexcept { return again_; }

  /// Once before a run of pop(): looks whether the guest's memory map has changed.
  void begin_pass();
  /// Whether the driver offers something. Cheap: for busy-polling.
  bool has_available() const noexcept;
  /// Takes the next chain; false if there is none, or the queue is broken (now).
  bool pop(VirtqElement& element);
  /// Gives a request back with `written` bytes of its writable memory filled, from its start. The
  /// driver sees it at the next publish().
  void push(VirtqElement& element, uint32_t written);
  /// Forgets a request without telling the driver (a reset).
  void drop(VirtqElement& element);
  /// What the request says can not be answered: the queue is broken.
  void reject(VirtqElement& element, const char* reason);
  /// Shows the driver everything pushed so far; true if it wants an interrupt for it.
  bool publish();
  /// Whether the driver wants one for what was published at some time: it has not seen all of it,
  /// or does not say what it has seen.
  bool may_wait_for_interrupt() const noexcept;

  /// Asks the driver not to ring, as long as somebody looks anyway. Advice only.
  void suppress_notifications();
  /// Asks the driver to ring for what comes next. False if something came meanwhile: look again.
  bool enable_notifications();

  bool broken() const noexcept { return broken_; }
  /// Why, for the log.
  const char* reason() const noexcept { return reason_; }
  /// Requests taken and not given back.
  uint32_t in_flight() const noexcept { return in_flight_; }

 private:
  struct Rings {
    const std::byte* descriptors = nullptr;
    std::byte* available = nullptr;
    std::byte* used = nullptr;
  };
  /// A table of descriptors: the queue's, or an indirect one.
  struct Table {
    enum class Kind : uint8_t { kRing, kIndirect };
    Kind kind;  // a driver may have an indirect table where the ring's is
    const std::byte* base;
    uint32_t entries;
  };
  VirtQueue(const VirtQueueConfig& config, Features features, memory::GuestMemory memory);

  Result<Rings> map_rings(const memory::GuestMemory::Pin& pin) const;
  bool event_idx() const noexcept {
    return (static_cast<uint8_t>(features_) & static_cast<uint8_t>(Features::kEventIdx)) != 0;
  }
  bool indirect() const noexcept {
    return (static_cast<uint8_t>(features_) & static_cast<uint8_t>(Features::kIndirect)) != 0;
  }
  uint16_t available_index() const noexcept;
  bool wants_interrupt_since(uint16_t before) const noexcept;
  bool fail(const char* reason) noexcept;
  bool take_next(VirtqElement& element);
  bool take_chain(VirtqElement& element, uint16_t head);
  bool walk(VirtqElement& element, Table table, uint16_t index, uint32_t& budget);
  bool take_indirect(const VirtqDesc& desc, VirtqElement& element, uint32_t& budget);
  bool add_piece(const VirtqDesc& desc, VirtqElement& element);
  void release(VirtqElement& element);
  void mark_used(uint64_t offset, uint64_t size);
  void set_used_flags(uint16_t flags);
  void set_avail_event(uint16_t index);

  const VirtQueueConfig config_;
  const Features features_;
  memory::GuestMemory memory_;
  Rings rings_;
  std::unique_ptr<internal::QueueView> view_;
  std::vector<std::unique_ptr<internal::QueueView>> old_views_;  // with requests
  uint16_t next_available_ = 0;  // the next entry of the available ring that we take
  uint16_t next_used_ = 0;       // the next entry of the used ring that we fill
  uint16_t published_ = 0;       // the used index that the driver sees
  std::vector<uint16_t> again_;  // the last one is the next
  uint32_t in_flight_ = 0;
  bool notifications_on_ = true;
  bool broken_ = false;
  const char* reason_ = "";
};

}  // namespace rhea::devices
