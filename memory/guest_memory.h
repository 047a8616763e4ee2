// GuestMemory: how a device reaches guest RAM (DMA).
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "memory/address_space.h"
#include "memory/flat_view.h"
#include "memory/guest_addr.h"
#include "util/error.h"

namespace rhea::memory {

/// The DMA side of one address space: RAM only, so that a descriptor that points at a device's
/// registers gives an error instead of calling into that device (G28).
///
/// Thread: any registered one. Owns: nothing; the address space outlives it, Pins need not.
/// Errors: kInvalidArgument if the guest's range is not all RAM (or is ROM and written); nothing
/// is copied then. The caller marks its device as broken, the spec's reaction.
class GuestMemory {
 public:
  /// Whether the device reads the guest's memory or writes it.
  enum class Access : uint8_t { kRead, kWrite };

  /// One consistent picture, for a request that outlives a read section: whatever the guest does
  /// to its memory map meanwhile, the RAM behind the picture stays.
  ///
  /// Thread: any one at a time; may be moved to, and dropped on, another registered thread. Copies
  /// are one counter step. Keep it for the time of a request, not of a device: it holds RAM and
  /// devices that were unplugged.
  class Pin {
   public:
    Result<void> read(GuestAddr address, std::span<std::byte> data) const;
    Result<void> write(GuestAddr address, std::span<const std::byte> data) const;
    template <GuestPod T>
    Result<T> read(GuestAddr address) const {
      T value;
      TRY(read(address, std::as_writable_bytes(std::span(&value, 1))));
      return value;
    }
    template <GuestPod T>
    Result<void> write(GuestAddr address, const T& value) const {
      return write(address, std::as_bytes(std::span(&value, 1)));
    }

    /// Fills `out` with the host's pieces of [address, address + size), which stay valid while a
    /// Pin of this picture lives, and returns how many there are. After writing to them, and before
    /// the guest is told, call written().
    /// Errors: kInvalidArgument (see the class); kResource if `out` has too few places.
    Result<size_t> map(GuestAddr address, uint64_t size_bytes, Access access,
                       std::span<iovec> out) const;
    /// Marks [address, address + size) dirty: data landed there by way of map(). It must be RAM.
    void written(GuestAddr address, uint64_t size_bytes) const;

   private:
    friend class GuestMemory;
    explicit Pin(std::shared_ptr<const FlatView> view) : view_(std::move(view)) {}
    std::shared_ptr<const FlatView> view_;
  };

  explicit GuestMemory(AddressSpace& space) : space_(space) {}

  Pin pin() const { return Pin(space_.pin()); }
  /// Whether the guest's memory map is still as `pin` shows it.
  bool is_current(const Pin& pin) const noexcept { return space_.is_current(*pin.view_); }

  /// Each copies from the map as it is at that moment.
  Result<void> read(GuestAddr address, std::span<std::byte> data) const {
    return space_.read_ram(address, data);
  }
  Result<void> write(GuestAddr address, std::span<const std::byte> data) const {
    return space_.write_ram(address, data);
  }
  template <GuestPod T>
  Result<T> read(GuestAddr address) const {
    return space_.read_ram<T>(address);
  }
  template <GuestPod T>
  Result<void> write(GuestAddr address, const T& value) const {
    return space_.write_ram(address, value);
  }

 private:
  AddressSpace& space_;
};

}  // namespace rhea::memory
