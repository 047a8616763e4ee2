// AddressSpace: reads and writes of guest-physical memory and of I/O ports.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include "memory/guest_addr.h"
#include "memory/listener.h"
#include "memory/region.h"
#include "util/bql.h"
#include "util/error.h"

namespace rhea::memory {

class AddressSpaceState;
class FlatView;

/// Whether all of an access reached RAM or a device that took it; else the worst of its parts.
enum class [[nodiscard]] AccessResult : uint8_t { kOk, kUnassigned, kRefused };

/// Types that may be copied from guest memory: any bit pattern is a value, and there is no padding.
template <class T>
concept GuestPod = std::is_trivially_copyable_v<T> && std::has_unique_object_representations_v<T>;

/// One view of the memory tree: "memory" or "io" of the machine, or a device's own DMA space.
///
/// Thread: access calls from any thread registered with RCU; each takes its own read section and,
/// for a device region that wants it, the BQL (unless the caller holds it already). Registration,
/// topology and destruction under the BQL. Lifetime: it outlives every access; a reader of another
/// kind (a pinned view, a dirty-log walk) may still be busy when it goes. Errors: an unassigned or
/// refused access reads all-ones, drops writes, and is traced.
class AddressSpace {
 public:
  AddressSpace(std::string name, MemoryRegion& root) REQUIRES(bql);
  ~AddressSpace();
  AddressSpace(const AddressSpace&) = delete;
  AddressSpace& operator=(const AddressSpace&) = delete;

  /// Copies between the guest and `data`: RAM by memcpy (writes mark dirty), devices in accesses of
  /// their widths.
  AccessResult read(GuestAddr address, std::span<std::byte> data);
  AccessResult write(GuestAddr address, std::span<const std::byte> data);

  /// One device-sized access (1, 2, 4 or 8 bytes), little endian: a port instruction or an MMIO
  /// exit. Where it spans regions each gets its part, as by read() and write().
  uint64_t load(GuestAddr address, unsigned size_bytes);
  void store(GuestAddr address, uint64_t value, unsigned size_bytes);

  /// RAM only, by copy: no device is ever re-entered (G28). Errors: kInvalidArgument if any byte is
  /// not RAM, or is ROM and written; then nothing is copied.
  Result<void> read_ram(GuestAddr address, std::span<std::byte> data);
  Result<void> write_ram(GuestAddr address, std::span<const std::byte> data);
  template <GuestPod T>
  Result<T> read_ram(GuestAddr address) {
    T value;
    TRY(read_ram(address, std::as_writable_bytes(std::span(&value, 1))));
    return value;
  }
  template <GuestPod T>
  Result<void> write_ram(GuestAddr address, const T& value) {
    return write_ram(address, std::as_bytes(std::span(&value, 1)));
  }

  /// Tells `listener` the present shape (as additions), then every change.
  void register_listener(std::shared_ptr<MemoryListener> listener, int priority = 0) REQUIRES(bql);
  void unregister_listener(MemoryListener& listener) REQUIRES(bql);

  /// Calls `f(const Section&)` for each section, in address order, on one consistent view.
  /// `f` runs outside of any read section.
  template <std::invocable<const Section&> F>
  void for_each_section(F&& f) const {
    visit_sections(
        [](void* context, const Section& section) {
          (*static_cast<std::remove_reference_t<F>*>(context))(section);
        },
        &f);
  }

  /// A strong reference to the present view: it keeps its RAM and devices alive.
  std::shared_ptr<const FlatView> pin() const;
  /// Whether `view`, which the caller holds, is still the present one. Cheaper than pin().
  bool is_current(const FlatView& view) const noexcept;

  const std::string& name() const noexcept;

 private:
  void visit_sections(void (*visit)(void*, const Section&), void* context) const;

  // Shared with the list that dirty-log walks read: it outlives this object by a grace period.
  const std::shared_ptr<AddressSpaceState> state_;
};

}  // namespace rhea::memory
