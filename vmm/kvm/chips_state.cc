#include "vmm/kvm/chips_state.h"

#include <linux/kvm.h>

#include <algorithm>
#include <limits>
#include <string_view>

#include "util/clock.h"
#include "vmm/kvm/kvm_copy.h"
#include "vmm/kvm/kvm_ioctl.h"

namespace rhea::vmm {
namespace {

constexpr double kPitHz = 1'193'182;
constexpr uint32_t kMostCount = 0x10000;
constexpr uint8_t kInterruptOnTerminalCount = 0, kSoftwareStrobe = 4;  // [8254: modes]
constexpr uint8_t kLastReadWriteMode = 3;   // [8254: control word, RW1-RW0]
constexpr uint8_t kLastMode = 7;            // 6 and 7 are other names of 2 and 3
constexpr uint8_t kNoMode = 0xff;           // before the first control word
constexpr uint8_t kLastPhase = 4;           // of a two-byte access, in KVM's numbering
constexpr uint8_t kLastInitialization = 3;  // of a PIC's four command words

template <class Copy, class Ours, class Kvms>
void copy_pic(Copy copy, Ours& o, Kvms& k) {
  copy(o.last_irr, k.last_irr), copy(o.irr, k.irr), copy(o.imr, k.imr), copy(o.isr, k.isr);
  copy(o.priority_add, k.priority_add), copy(o.irq_base, k.irq_base);
  copy(o.read_reg_select, k.read_reg_select), copy(o.poll, k.poll);
  copy(o.special_mask, k.special_mask), copy(o.init_state, k.init_state);
  copy(o.auto_eoi, k.auto_eoi), copy(o.rotate_on_auto_eoi, k.rotate_on_auto_eoi);
  copy(o.special_fully_nested_mode, k.special_fully_nested_mode), copy(o.init4, k.init4);
  copy(o.elcr, k.elcr), copy(o.elcr_mask, k.elcr_mask);
}

template <class Copy, class Ours, class Kvms>
void copy_ioapic(Copy copy, Ours& o, Kvms& k) {
  copy(o.base_address, k.base_address), copy(o.ioregsel, k.ioregsel), copy(o.id, k.id);
  copy(o.irr, k.irr);
  for (size_t i = 0; i < o.redirection.size(); ++i) copy(o.redirection[i].bits, k.redirtbl[i].bits);
}

template <class Copy, class Ours, class Kvms>
void copy_pit_channel(Copy copy, Ours& o, Kvms& k) {
  copy(o.count, k.count), copy(o.latched_count, k.latched_count);
  copy(o.count_latched, k.count_latched), copy(o.status_latched, k.status_latched);
  copy(o.status, k.status), copy(o.read_state, k.read_state), copy(o.write_state, k.write_state);
  copy(o.write_latch, k.write_latch), copy(o.rw_mode, k.rw_mode), copy(o.mode, k.mode);
  copy(o.bcd, k.bcd), copy(o.gate, k.gate);
}

/// What a count that is made once has left: KVM begins with it when it is set. A count that is made
/// over and over begins with all of itself then, and so does channel 0, of which KVM does not say
/// when it was loaded.
uint32_t count_left(const kvm_pit_channel_state& channel, Nanoseconds now) {
  const int64_t elapsed = std::max<int64_t>(0, now.count() - channel.count_load_time);
  const auto ticks = static_cast<double>(elapsed) * kPitHz / 1e9;
  return ticks < channel.count ? std::max(1U, channel.count - static_cast<uint32_t>(ticks)) : 1U;
}

Error wrong(std::string_view field, uint64_t value) {
  return fail(ErrorKind::kCorrupt, "{} {:#x} is not possible", field, value);
}

Result<kvm_irqchip> get_chip(const KvmVm& vm, uint32_t number) {
  kvm_irqchip chip{};
  chip.chip_id = number;
  TRY(KVM_IOCTL(vm.fd(), KVM_GET_IRQCHIP, &chip));
  return chip;
}

Result<void> check_pic(std::string_view name, const PicState& pic) {
  if (pic.init_state > kLastInitialization) {
    return wrong(fmt::format("{}.init_state", name), pic.init_state);
  }
  if (pic.priority_add > 7) return wrong(fmt::format("{}.priority_add", name), pic.priority_add);
  return ok();
}

}  // namespace

Result<IrqchipState> read_irqchip(const KvmVm& vm) {
  IrqchipState state;
  const kvm_irqchip master = TRY(get_chip(vm, KVM_IRQCHIP_PIC_MASTER));
  const kvm_irqchip slave = TRY(get_chip(vm, KVM_IRQCHIP_PIC_SLAVE));
  const kvm_irqchip ioapic = TRY(get_chip(vm, KVM_IRQCHIP_IOAPIC));
  copy_pic(FromKvm{}, state.master, master.chip.pic);
  copy_pic(FromKvm{}, state.slave, slave.chip.pic);
  copy_ioapic(FromKvm{}, state.ioapic, ioapic.chip.ioapic);
  return state;
}

Result<uint64_t> read_ioapic_base(const KvmVm& vm) {
  const kvm_irqchip ioapic = TRY(get_chip(vm, KVM_IRQCHIP_IOAPIC));
  return ioapic.chip.ioapic.base_address;
}

Result<void> check_irqchip(uint64_t ioapic_base, const IrqchipState& state) {
  TRY(check_pic("master", state.master));
  TRY(check_pic("slave", state.slave));
  if (state.ioapic.base_address != ioapic_base) {
    return wrong("ioapic.base_address", state.ioapic.base_address);
  }
  if (state.ioapic.irr >> KVM_IOAPIC_NUM_PINS != 0) return wrong("ioapic.irr", state.ioapic.irr);
  return ok();
}

Result<void> write_irqchip(const KvmVm& vm, const IrqchipState& state) {
  kvm_irqchip master{}, slave{}, ioapic{};
  master.chip_id = KVM_IRQCHIP_PIC_MASTER;
  slave.chip_id = KVM_IRQCHIP_PIC_SLAVE;
  ioapic.chip_id = KVM_IRQCHIP_IOAPIC;
  copy_pic(ToKvm{}, state.master, master.chip.pic);
  copy_pic(ToKvm{}, state.slave, slave.chip.pic);
  copy_ioapic(ToKvm{}, state.ioapic, ioapic.chip.ioapic);
  for (kvm_irqchip* chip : {&master, &slave, &ioapic}) {
    TRY(KVM_IOCTL(vm.fd(), KVM_SET_IRQCHIP, chip));
  }
  return ok();
}

Result<PitState> read_pit(const KvmVm& vm) {
  kvm_pit_state2 pit{};
  TRY(KVM_IOCTL(vm.fd(), KVM_GET_PIT2, &pit));
  PitState state;
  for (size_t i = 0; i < state.channels.size(); ++i) {
    PitChannelState& channel = state.channels[i];
    copy_pit_channel(FromKvm{}, channel, pit.channels[i]);
    const bool once = channel.mode == kInterruptOnTerminalCount || channel.mode == kSoftwareStrobe;
    if (i != 0 && once) channel.count = count_left(pit.channels[i], HostClock().now());
  }
  state.flags = pit.flags;
  return state;
}

Result<void> check_pit(const PitState& state) {
  for (const PitChannelState& channel : state.channels) {
    if (channel.count > kMostCount) return wrong("channels: count", channel.count);
    if (channel.mode > kLastMode && channel.mode != kNoMode) {
      return wrong("channels: mode", channel.mode);
    }
    if (channel.rw_mode > kLastReadWriteMode) return wrong("channels: rw_mode", channel.rw_mode);
    if (channel.read_state > kLastPhase) return wrong("channels: read_state", channel.read_state);
    if (channel.write_state > kLastPhase)
      return wrong("channels: write_state", channel.write_state);
    if (channel.gate > 1) return wrong("channels: gate", channel.gate);
  }
  constexpr uint32_t kKnown = KVM_PIT_FLAGS_HPET_LEGACY | KVM_PIT_FLAGS_SPEAKER_DATA_ON;
  if ((state.flags & ~kKnown) != 0) return wrong("flags", state.flags);
  return ok();
}

Result<void> write_pit(const KvmVm& vm, const PitState& state) {
  kvm_pit_state2 pit{};
  for (size_t i = 0; i < state.channels.size(); ++i) {
    copy_pit_channel(ToKvm{}, state.channels[i], pit.channels[i]);
  }
  pit.flags = state.flags;
  TRY(KVM_IOCTL(vm.fd(), KVM_SET_PIT2, &pit));
  return ok();
}

/// KVM computes with signed nanoseconds; half of them is 146 years.
Result<void> check_clock(const KvmClockState& state) {
  constexpr uint64_t kMost = std::numeric_limits<int64_t>::max() / 2;
  if (state.nanoseconds > kMost) return wrong("nanoseconds", state.nanoseconds);
  return ok();
}

}  // namespace rhea::vmm
