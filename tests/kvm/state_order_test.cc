// The orders in which a machine's state must be read and set: what a load in ours keeps, the same
// requests in another order lose.
#include <x86intrin.h>

#include <algorithm>
#include <cstdint>

#include "tests/kvm/bare_vm.h"
#include "tests/kvm/raw_vcpu.h"
#include "vmm/kvm/chips_state.h"
#include "vmm/kvm/kvm_msrs.h"

using namespace rhea;
using namespace rhea::test;

namespace {

constexpr uint32_t kDeadlineMode = 2U << 17;

}  // namespace

TEST_CASE("state order: a deadline after the LAPIC whose timer is to wait for it", "[kvm]") {
  NEEDS_KVM();
  // Minutes away, and no further: KVM's sum in nanoseconds has 64 bits.
  const uint64_t deadline = __rdtsc() + (uint64_t{1} << 40);
  BareVm source({kSpin}), target({kSpin}), twin({kSpin});
  source.reset(), target.reset(), twin.reset();
  const RawVcpu from(source), to(target), other(twin);
  auto lapic = from.get<kvm_lapic_state>(KVM_GET_LAPIC);
  set_lapic_register(lapic, kTimerEntry, kDeadlineMode | 0x51);
  from.set(KVM_SET_LAPIC, lapic);
  REQUIRE(from.set_msr(vmm::msr::kTscDeadline, deadline));
  REQUIRE(from.msr(vmm::msr::kTscDeadline) == deadline);
  MUST(target.load(source.save()));
  CHECK(to.msr(vmm::msr::kTscDeadline) == deadline);

  CHECK(other.set_msr(vmm::msr::kTscDeadline, deadline));
  other.set(KVM_SET_LAPIC, lapic);
  CHECK(other.msr(vmm::msr::kTscDeadline) == 0);
}

TEST_CASE("state order: the MP state after the segments of a reset, which wake a halted vCPU",
          "[kvm]") {
  NEEDS_KVM();
  BareVm source({kSpin}), target({kSpin}), twin({kSpin});  // as at power-on
  target.reset(), twin.reset();
  const RawVcpu from(source), to(target), other(twin);
  const auto sregs = from.get<kvm_sregs>(KVM_GET_SREGS);
  const auto regs = from.get<kvm_regs>(KVM_GET_REGS);
  REQUIRE(regs.rip == 0xfff0);
  const kvm_mp_state halted{.mp_state = KVM_MP_STATE_HALTED};
  const auto mp_state = [](const RawVcpu& vcpu) {
    return vcpu.get<kvm_mp_state>(KVM_GET_MP_STATE).mp_state;
  };
  from.set(KVM_SET_MP_STATE, halted);
  REQUIRE(mp_state(from) == KVM_MP_STATE_HALTED);
  MUST(target.load(source.save()));
  CHECK(mp_state(to) == KVM_MP_STATE_HALTED);

  other.set(KVM_SET_MP_STATE, halted);
  other.set(KVM_SET_REGS, regs);
  other.set(KVM_SET_SREGS, sregs);
  CHECK(mp_state(other) == KVM_MP_STATE_RUNNABLE);
}

TEST_CASE("state order: the IOAPIC after the LAPICs that its interrupts go to", "[kvm]") {
  NEEDS_KVM();
  constexpr uint32_t kPin = 10, kVector = 0x31;
  BareVm source({kSpin}), target({kSpin}), twin({kSpin});
  source.reset(), target.reset(), twin.reset();
  const RawVcpu to(target), other(twin);
  // A LAPIC that is on, and an IOAPIC in which an edge has just come: KVM passes on what is set
  // there.
  auto lapic = to.get<kvm_lapic_state>(KVM_GET_LAPIC);
  set_lapic_register(lapic, kSpurious, 0x1ff);
  RawVcpu(source).set(KVM_SET_LAPIC, lapic);
  auto sections = source.save();
  const auto section = std::ranges::find(sections, "kvm-irqchip", &vmm::StateSection::name);
  REQUIRE(section != sections.end());
  auto chips = MUST(decode_state<vmm::IrqchipState>("kvm-irqchip", section->bytes));
  chips.ioapic.redirection[kPin].bits = kVector;
  chips.ioapic.irr = 1U << kPin;
  section->bytes = encode_state(chips);
  const auto requested = [](const RawVcpu& vcpu) {
    return lapic_register(vcpu.get<kvm_lapic_state>(KVM_GET_LAPIC), kIrr + kVector / 32 * 16);
  };
  MUST(target.load(sections));
  CHECK(requested(to) == 1U << kVector % 32);

  other.set(KVM_SET_LAPIC, lapic);  // on, so that it takes the interrupt
  kvm_irqchip ioapic = other.chip(KVM_IRQCHIP_IOAPIC);
  ioapic.chip.ioapic.redirtbl[kPin].bits = kVector;
  ioapic.chip.ioapic.irr = 1U << kPin;
  other.set_chip(ioapic);
  CHECK(requested(other) == 1U << kVector % 32);
  other.set(KVM_SET_LAPIC, lapic);
  CHECK(requested(other) == 0);
}

TEST_CASE("state order: a start-up message that waits is acted on before the registers are read",
          "[kvm]") {
  NEEDS_KVM();
  constexpr uint8_t kPage = 0x9a;
  BareVm source({kSpin, kNoCode}), target({kSpin, kNoCode});
  source.reset(), target.reset();
  const RawVcpu from(source, 1), to(target, 1);
  auto events = from.get<kvm_vcpu_events>(KVM_GET_VCPU_EVENTS);
  events.flags = KVM_VCPUEVENT_VALID_SIPI_VECTOR;
  events.sipi_vector = kPage;
  from.set(KVM_SET_VCPU_EVENTS, events);
  from.set(KVM_SET_MP_STATE, kvm_mp_state{.mp_state = KVM_MP_STATE_SIPI_RECEIVED});
  MUST(target.load(source.save()));
  CHECK(to.get<kvm_mp_state>(KVM_GET_MP_STATE).mp_state == KVM_MP_STATE_RUNNABLE);
  CHECK(to.get<kvm_sregs>(KVM_GET_SREGS).cs.selector == kPage << 8);
  CHECK(to.get<kvm_regs>(KVM_GET_REGS).rip == 0);
}
