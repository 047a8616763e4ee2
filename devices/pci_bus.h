// PciBus: 32 slots, the windows their BARs appear in, and the four shared interrupt wires.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "devices/irq.h"
#include "devices/pci_device.h"
#include "memory/region.h"
#include "util/bql.h"
#include "util/error.h"

namespace rhea::devices {

/// The machine's only bus, number 0.
///
/// Thread: BQL. Owns: a share of each device on it. Invariants: the windows are containers whose
/// offsets are the addresses themselves, and outlive the bus; a slot has one function, number 0.
class PciBus {
 public:
  static constexpr unsigned kSlots = 32;
  static constexpr unsigned kWires = 4;

  /// `intx` are the four wires behind the swizzle; a device's INTA in slot 0 drives wire 0.
  PciBus(std::string name, memory::MemoryRegion& io_window, memory::MemoryRegion& memory_window,
         const std::array<IrqLine, kWires>& intx);
  ~PciBus();
  PciBus(const PciBus&) = delete;
  PciBus& operator=(const PciBus&) = delete;

  const std::string& name() const noexcept { return name_; }

  /// Puts a realized device into a slot. Errors: kInvalidArgument (no such slot), kExists (taken).
  Result<void> add(std::shared_ptr<PciDevice> device, unsigned slot) REQUIRES(bql);
  /// Takes a device out: unmaps its BARs, drops its interrupt, gives back the bus's share.
  std::shared_ptr<PciDevice> remove(PciDevice& device) REQUIRES(bql);
  /// The device in a slot, or null.
  PciDevice* device_at(unsigned slot) const REQUIRES(bql);
  /// Of the free slots from `from` on the one that has been free for longest, the first of those
  /// that were never used: what a guest still says about a device that has gone does not hit the
  /// next one. Errors: kNotFound, the bus is full.
  Result<unsigned> free_slot(unsigned from) const REQUIRES(bql);
  /// Resets every device.
  void reset() REQUIRES(bql);

  /// A configuration access; an absent function reads all-ones and drops stores.
  uint32_t config_read(unsigned slot, unsigned function, uint8_t offset, unsigned size)
      REQUIRES(bql);
  void config_write(unsigned slot, unsigned function, uint8_t offset, uint32_t value, unsigned size)
      REQUIRES(bql);

  /// The wire that `pin` (1 to 4) of a slot drives. [PCI-3.0 2.2.6; the PC's customary swizzle]
  static constexpr unsigned wire_of(unsigned slot, uint8_t pin) {
    return (slot + pin - 1) % kWires;
  }

 private:
  friend class PciDevice;
  memory::MemoryRegion& window(BarKind kind) const {
    return kind == BarKind::kIo ? io_window_ : memory_window_;
  }
  void set_intx(unsigned slot, uint8_t pin, bool level) REQUIRES(bql);

  const std::string name_;
  memory::MemoryRegion& io_window_;
  memory::MemoryRegion& memory_window_;
  const std::array<IrqLine, kWires> intx_;
  std::array<unsigned, kWires> drivers_ GUARDED_BY(bql){};  // devices that hold each wire up
  std::array<std::shared_ptr<PciDevice>, kSlots> slots_;    // changes under the BQL
  std::array<uint64_t, kSlots> freed_ GUARDED_BY(bql){};    // the last removal from each, counted
  uint64_t removals_ GUARDED_BY(bql) = 0;
};

}  // namespace rhea::devices
