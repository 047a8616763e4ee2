// AcpiPciHotplug: how a guest's ACPI methods learn which PCI slots came and are to go.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "devices/saved_device.h"
#include "memory/io_handler.h"

namespace rhea::devices {

struct AcpiPciHotplugState {
  static constexpr std::string_view kKind = "acpi-pci-hotplug";
  static constexpr uint32_t kVersion = 1;

  /// Of one slot: requests that the guest has taken and not answered, and how many of them are for
  /// an earlier device.
  struct Taken {
    uint32_t all = 0;
    uint32_t earlier = 0;
    template <class Visitor, class Self>
    static void describe(Visitor& v, Self& s) {
      v.field("all", s.all);
      v.field("earlier", s.earlier);
    }
  };

  uint32_t up = 0;
  uint32_t down = 0;
  uint32_t asked = 0;
  uint32_t bus = 0;
  std::array<Taken, 32> taken{};
  uint32_t held_slots = 0;  // ejects that nobody was told of
  uint32_t held_late = 0;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("up", s.up);
    v.field("down", s.down);
    v.field("asked", s.asked);
    v.field("bus", s.bus);
    v.field("taken", s.taken);
    v.field("held_slots", s.held_slots);
    v.field("held_late", s.held_late);
  }
};

/// The registers that the DSDT's methods use: QEMU's of the bridge-less kind and one more, all 32
/// bits wide, in which bit n is slot n of bus 0.
///
///   0x00 up          slots that got a device; a load clears them
///   0x04 down        slots whose device is asked for; ejecting clears its bit
///   0x08 eject       a store asks for the devices of these slots to be taken out; reads 0
///   0x0c removable   slots whose devices may go
///   0x10 bus         which bus the others are about; there is 0 alone
///   0x14 acpi-index  reads 0: no device has one
///   0x18 asked       slots whose device was asked for since the last load, which clears it
///
/// The methods use `asked`, not `down`: that shows a request for as long as the guest works on it,
/// and a second eject request for it, left in the guest's queue, would hit the slot's next device.
///
/// A request that is repeated may still leave two in that queue. The guest works on them in their
/// order and answers each with an eject, so its answers are counted: those to requests that it has
/// taken for the device before are marked as late.
///
/// A store to `eject` happens inside an RCU read section, on a vCPU: it is passed on, and whoever
/// it is passed to only latches it.
///
/// Thread: BQL.
class AcpiPciHotplug final : public SavedDevice<AcpiPciHotplugState>, public memory::IoHandler {
 public:
  static constexpr uint64_t kSize = 0x1c;
  /// Of the general-purpose event that tells the guest to look; its method is _E01.
  static constexpr unsigned kGpe = 1;
  /// Slots 0 (the host bridge) and 1 (kept free) stay.
  static constexpr uint32_t kRemovable = 0xffff'fffc;
  static constexpr memory::IoAccess kAccess{
      .min_size = 4, .max_size = 4, .impl_min = 4, .impl_max = 4, .unaligned = false};

  /// `event` raises the general-purpose event.
  AcpiPciHotplug(std::string id, std::move_only_function<void()> event);

  memory::MemoryRegion& io() noexcept { return io_; }  ///< at 0xae00

  /// Slots whose devices the guest lets go. `late`: those of them for which this answers a request
  /// for an earlier device.
  struct Eject {
    uint32_t slots = 0;
    uint32_t late = 0;
  };
  /// Whom to tell; null: nobody.
  void set_eject(std::move_only_function<void(const Eject&)> eject) REQUIRES(bql) {
    eject_ = std::move(eject);
  }
  /// Ejects are kept from here on, and travel with a guest that is moved; release_ejects() tells of
  /// them.
  void hold_ejects() REQUIRES(bql) { holding_ = true; }
  void release_ejects() REQUIRES(bql);
  /// A slot got a device.
  void device_came(unsigned slot) REQUIRES(bql);
  /// Whether the guest has not looked since.
  bool announces(unsigned slot) const REQUIRES(bql) { return (up_ >> slot & 1) != 0; }
  /// The guest is to let a slot's device go. Again if it was asked before.
  void ask_for(unsigned slot) REQUIRES(bql);
  /// Nobody asks any more, or the device is gone.
  void forget(unsigned slot) REQUIRES(bql);
  /// The guest listens now: it hears of what it has missed.
  void event_enabled() REQUIRES(bql);

  /// The guest finds what is in the slots by itself.
  void reset() override REQUIRES(bql);
  void resume_loaded() override REQUIRES(bql) { release_ejects(); }

  uint64_t io_read(uint64_t offset, unsigned size) override;
  void io_write(uint64_t offset, uint64_t value, unsigned size) override;

 private:
  Result<void> do_realize() override REQUIRES(bql);
  void do_unrealize() override REQUIRES(bql);
  AcpiPciHotplugState state() override REQUIRES(bql);
  Result<void> check_state(const AcpiPciHotplugState& state) const override REQUIRES(bql);
  void set_state(const AcpiPciHotplugState& state) override REQUIRES(bql);
  uint32_t read_register(uint64_t offset) REQUIRES(bql);
  uint32_t take_asked() REQUIRES(bql);
  uint32_t count_answers(uint32_t slots) REQUIRES(bql);
  void eject(Eject now) REQUIRES(bql);
  void raise() REQUIRES(bql);

  std::move_only_function<void()> event_ GUARDED_BY(bql);
  std::move_only_function<void(const Eject&)> eject_ GUARDED_BY(bql);
  memory::MemoryRegion io_;
  bool holding_ GUARDED_BY(bql) = false;
  Eject held_ GUARDED_BY(bql);
  uint32_t up_ GUARDED_BY(bql) = 0;
  uint32_t down_ GUARDED_BY(bql) = 0;
  uint32_t asked_ GUARDED_BY(bql) = 0;  // of `down_`, what the guest has not seen
  uint32_t bus_ GUARDED_BY(bql) = 0;
  std::array<AcpiPciHotplugState::Taken, 32> taken_ GUARDED_BY(bql){};
};

}  // namespace rhea::devices
