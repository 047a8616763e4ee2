// GuestQueue: a split virtqueue as a driver sees it, in memory that a device reads as a guest's.
#pragma once

#include <array>
#include <atomic>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

#include "devices/virtio/virtio_spec.h"
#include "util/check.h"
#include "util/fd.h"

namespace rhea::test {

/// One buffer of a request.
struct GuestBuffer {
  uint64_t address = 0;
  uint32_t length = 0;
  bool device_writes = false;
};

/// A split queue in the guest's RAM.
/// Thread: any one at a time; only its doorbell needs the BQL (an eventfd is rung instead).
class GuestQueue {
 public:
  GuestQueue(std::byte* ram, uint64_t at, uint16_t size, int doorbell)
      : ram_(ram), at_(at), size_(size), doorbell_(doorbell) {
    std::memset(ram + at, 0, bytes(size));
    for (uint16_t i = 0; i < size; ++i) free_.push_back(i);
  }
  /// The same driver behind a move to another machine, whose RAM has the same contents.
  GuestQueue moved_to(std::byte* ram, int doorbell) const {
    GuestQueue moved(*this, doorbell);
    moved.ram_ = ram;
    return moved;
  }
  static constexpr uint64_t bytes(uint16_t size) { return 3 * 4096 + uint64_t{size} * 32; }
  uint64_t descriptors() const { return at_; }
  uint64_t available() const { return at_ + uint64_t{size_} * 16; }
  uint64_t used() const { return (available() + 6 + 2 * uint64_t{size_} + 4095) & ~uint64_t{4095}; }
  uint16_t size() const { return size_; }

  /// Puts a chain into the available ring; its head. Does not ring.
  uint16_t offer(std::span<const GuestBuffer> chain) {
    RHEA_CHECK(chain.size() <= free_.size());  // no assertion of Catch2: any thread may offer
    const uint16_t head = free_.back();
    for (size_t i = 0; i < chain.size(); ++i) {
      const uint16_t index = free_.back();
      free_.pop_back();
      const bool last = i + 1 == chain.size();
      set_descriptor(index, chain[i], last ? std::nullopt : std::optional(free_.back()));
    }
    chains_[head] = chain.size();
    offer_head(head);
    return head;
  }
  void set_descriptor(uint16_t index, const GuestBuffer& buffer, std::optional<uint16_t> next) {
    const uint16_t flags = static_cast<uint16_t>((next ? 1 : 0) | (buffer.device_writes ? 2 : 0));
    const devices::VirtqDesc desc{.address = buffer.address,
                                  .length = buffer.length,
                                  .flags = flags,
                                  .next = next.value_or(0)};
    std::memcpy(ram_ + descriptors() + 16 * uint64_t{index}, &desc, sizeof desc);
  }
  void offer_head(uint16_t head) {
    word(available() + 4 + 2 * uint64_t(next_offer_ % size_)).store(head);
    word(available() + 2).store(++next_offer_, std::memory_order_release);
  }
  void ring() const { signal_eventfd(doorbell_); }

  /// The next completed chain: its head and the bytes written. Its descriptors are free again.
  std::optional<std::pair<uint16_t, uint32_t>> take() {
    if (word(used() + 2).load(std::memory_order_acquire) == next_used_) return std::nullopt;
    devices::VirtqUsedElem elem;
    std::memcpy(&elem, ram_ + used() + 4 + 8 * uint64_t(next_used_ % size_), sizeof elem);
    ++next_used_;
    const auto head = static_cast<uint16_t>(elem.id.value());
    uint16_t index = head;
    for (size_t i = chains_[head]; i > 0; --i) {
      free_.push_back(index);
      devices::VirtqDesc desc;
      std::memcpy(&desc, ram_ + descriptors() + 16 * uint64_t{index}, sizeof desc);
      index = desc.next;
    }
    return std::pair(head, elem.length.value());
  }
  bool has_used() { return word(used() + 2).load(std::memory_order_acquire) != next_used_; }
  size_t free_descriptors() const { return free_.size(); }

  // Who wants to hear of what. Each wish and each look is on its far side of a full fence from the
  // index that goes with it. [virtio-1.2 2.7.7, 2.7.10]
  uint16_t next_offer() const { return next_offer_; }
  /// Whether the device wants the doorbell for what was offered since `before`.
  bool wants_ring(uint16_t before, bool event_idx) {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (!event_idx) return (word(used()).load() & 1) == 0;
    return static_cast<uint16_t>(next_offer_ - avail_event() - 1) <
           static_cast<uint16_t>(next_offer_ - before);
  }
  /// Asks for an interrupt; false if something was used meanwhile.
  bool ask_for_interrupt(bool event_idx) {
    if (event_idx) {
      set_used_event(next_used_);
    } else {
      word(available()).store(0);
    }
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return !has_used();
  }
  /// With event_idx the old used_event lies behind anyway.
  void refuse_interrupts(bool event_idx) {
    if (!event_idx) word(available()).store(1);
  }
  /// The event index after which the driver wants to hear. [virtio-1.2 2.7.7]
  void set_used_event(uint16_t index) { word(available() + 4 + 2 * uint64_t{size_}).store(index); }
  uint16_t avail_event() { return word(used() + 4 + 8 * uint64_t{size_}).load(); }

 private:
  GuestQueue(const GuestQueue& other, int doorbell)
      : ram_(other.ram_),
        at_(other.at_),
        size_(other.size_),
        doorbell_(doorbell),
        free_(other.free_),
        chains_(other.chains_),
        next_offer_(other.next_offer_),
        next_used_(other.next_used_) {}
  std::atomic_ref<uint16_t> word(uint64_t address) {
    return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(ram_ + address));
  }
  std::byte* ram_;
  const uint64_t at_;
  const uint16_t size_;
  const int doorbell_;
  std::vector<uint16_t> free_;
  std::array<size_t, devices::kMaxQueueSize> chains_{};
  uint16_t next_offer_ = 0, next_used_ = 0;
};

}  // namespace rhea::test
