// The interrupt controllers and the timer that KVM keeps for the whole machine, as plain structs.
#pragma once

#include <array>
#include <cstdint>

#include "util/error.h"
#include "vmm/kvm/kvm_vm.h"

namespace rhea::vmm {

/// One 8259, as in kvm_pic_state.
struct PicState {
  uint8_t last_irr = 0, irr = 0, imr = 0, isr = 0, priority_add = 0, irq_base = 0;
  uint8_t read_reg_select = 0, poll = 0, special_mask = 0, init_state = 0, auto_eoi = 0;
  uint8_t rotate_on_auto_eoi = 0, special_fully_nested_mode = 0, init4 = 0, elcr = 0;
  uint8_t elcr_mask = 0;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("last_irr", s.last_irr);
    v.field("irr", s.irr);
    v.field("imr", s.imr);
    v.field("isr", s.isr);
    v.field("priority_add", s.priority_add);
    v.field("irq_base", s.irq_base);
    v.field("read_reg_select", s.read_reg_select);
    v.field("poll", s.poll);
    v.field("special_mask", s.special_mask);
    v.field("init_state", s.init_state);
    v.field("auto_eoi", s.auto_eoi);
    v.field("rotate_on_auto_eoi", s.rotate_on_auto_eoi);
    v.field("special_fully_nested_mode", s.special_fully_nested_mode);
    v.field("init4", s.init4);
    v.field("elcr", s.elcr);
    v.field("elcr_mask", s.elcr_mask);
  }
};

/// An entry of the IOAPIC's redirection table, as the guest reads it.
struct RedirectionState {
  uint64_t bits = 0;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("bits", s.bits);
  }
};

struct IoapicState {
  uint64_t base_address = 0;
  uint32_t ioregsel = 0, id = 0, irr = 0;
  std::array<RedirectionState, 24> redirection{};
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("base_address", s.base_address);
    v.field("ioregsel", s.ioregsel);
    v.field("id", s.id);
    v.field("irr", s.irr);
    v.field("redirection", s.redirection);
  }
};

struct IrqchipState {
  PicState master, slave;
  IoapicState ioapic;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("master", s.master);
    v.field("slave", s.slave);
    v.field("ioapic", s.ioapic);
  }
};

/// A counter of the 8254. When it was loaded is not part of it: KVM starts all three anew when they
/// are set. So the period of channel 0 that is under way is made longer, once, by as much of it as
/// had passed. `count` of another channel that counts once is what it has left.
struct PitChannelState {
  uint32_t count = 0;
  uint16_t latched_count = 0;
  uint8_t count_latched = 0, status_latched = 0, status = 0, read_state = 0, write_state = 0;
  uint8_t write_latch = 0, rw_mode = 0, mode = 0, bcd = 0, gate = 0;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("count", s.count);
    v.field("latched_count", s.latched_count);
    v.field("count_latched", s.count_latched);
    v.field("status_latched", s.status_latched);
    v.field("status", s.status);
    v.field("read_state", s.read_state);
    v.field("write_state", s.write_state);
    v.field("write_latch", s.write_latch);
    v.field("rw_mode", s.rw_mode);
    v.field("mode", s.mode);
    v.field("bcd", s.bcd);
    v.field("gate", s.gate);
  }
};

struct PitState {
  std::array<PitChannelState, 3> channels{};
  uint32_t flags = 0;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("channels", s.channels);
    v.field("flags", s.flags);
  }
};

/// kvmclock, which stands still while the machine does. The host's wall clock is left out on
/// purpose: KVM would move the guest's monotonic time on by what two hosts' clocks differ, and by
/// days where a saved machine is started again, and watchdogs would fire.
struct KvmClockState {
  uint64_t nanoseconds = 0;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("nanoseconds", s.nanoseconds);
  }
};

// Thread: main with the BQL, all vCPUs standing still. Errors of read and write: KVM refuses; of
// check: kCorrupt, naming the field.
Result<IrqchipState> read_irqchip(const KvmVm& vm);
/// Where the IOAPIC is: the guest has no way to move it.
Result<uint64_t> read_ioapic_base(const KvmVm& vm);
Result<void> check_irqchip(uint64_t ioapic_base, const IrqchipState& state);
Result<void> write_irqchip(const KvmVm& vm, const IrqchipState& state);
Result<PitState> read_pit(const KvmVm& vm);
Result<void> check_pit(const PitState& state);
Result<void> write_pit(const KvmVm& vm, const PitState& state);
Result<void> check_clock(const KvmClockState& state);

}  // namespace rhea::vmm
