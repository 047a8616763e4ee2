#include "vmm/kvm/kvm_state.h"

#include <utility>

#include "vmm/kvm/vcpu_state_io.h"

namespace rhea::vmm {
namespace {

constexpr const char* kPit = "kvm-pit";
constexpr const char* kIrqchip = "kvm-irqchip";
constexpr const char* kKvmClock = "kvm-clock";

std::string vcpu_section(size_t index) { return fmt::format("vcpu {}", index); }

/// `done`, with the section's name before its error.
template <class T>
Result<T> of(std::string_view section, Result<T> done) {
  if (!done) return std::move(done).error().context(section);
  return done;
}

}  // namespace

// The order of reading: from whom interrupts come to those they go to. The PIT and the LAPICs'
// timers run on while the vCPUs stand still, and what is raised between two steps is found in the
// later one.
Result<KvmState> read_state(const KvmMachine& machine, uint64_t kvm_clock) {
  KvmState state;
  state.pit = TRY(of(kPit, read_pit(machine.vm)));
  state.irqchip = TRY(of(kIrqchip, read_irqchip(machine.vm)));
  for (size_t i = 0; i < machine.vcpus.size(); ++i) {
    state.vcpus.push_back(TRY(of(vcpu_section(i), read_vcpu(machine.vm, *machine.vcpus[i]))));
  }
  state.kvm_clock.nanoseconds = kvm_clock;
  state.vm_clock = machine.clock.save();
  return state;
}

Result<KvmLimits> read_limits(const KvmMachine& machine) {
  KvmLimits limits;
  for (size_t i = 0; i < machine.vcpus.size(); ++i) {
    limits.vcpus.push_back(
        TRY(of(vcpu_section(i), read_vcpu_limits(machine.vm, *machine.vcpus[i]))));
  }
  limits.ioapic_base = TRY(of(kIrqchip, read_ioapic_base(machine.vm)));
  return limits;
}

Result<void> check_state(const KvmLimits& limits, const VmClock& clock, const KvmState& state) {
  TRY(of(kPit, check_pit(state.pit)));
  TRY(of(kIrqchip, check_irqchip(limits.ioapic_base, state.irqchip)));
  for (size_t i = 0; i < limits.vcpus.size(); ++i) {
    TRY(of(vcpu_section(i), check_vcpu(limits.vcpus[i], state.vcpus.at(i))));
  }
  TRY(of(kKvmClock, check_clock(state.kvm_clock)));
  return of(VmClock::kSection, clock.check(state.vm_clock));
}

// The order of setting is that of reading turned round: KVM delivers what an IOAPIC or a PIC holds
// as soon as it is set, into LAPICs that must not be set after that; and a PIT raises its line from
// the moment it is set on.
Result<void> write_state(const KvmMachine& machine, const KvmState& state) {
  for (size_t i = 0; i < machine.vcpus.size(); ++i) {
    TRY(of(vcpu_section(i), write_vcpu(machine.vm, *machine.vcpus[i], state.vcpus.at(i))));
  }
  TRY(of(kIrqchip, write_irqchip(machine.vm, state.irqchip)));
  TRY(of(kPit, write_pit(machine.vm, state.pit)));
  machine.clock.load(state.vm_clock);
  // The guest's watchdogs are not to count the time that it stood still: the source's mark was left
  // in its KVM.
  for (KvmVcpu* vcpu : machine.vcpus) vcpu->note_paused();
  return ok();
}

std::vector<StateSection> encode_sections(const KvmState& state) {
  std::vector<StateSection> sections;
  for (size_t i = 0; i < state.vcpus.size(); ++i) {
    sections.push_back(make_section(vcpu_section(i), state.vcpus[i]));
  }
  sections.push_back(make_section(kIrqchip, state.irqchip));
  sections.push_back(make_section(kPit, state.pit));
  sections.push_back(make_section(kKvmClock, state.kvm_clock));
  sections.push_back(make_section(VmClock::kSection, state.vm_clock));
  return sections;
}

Result<KvmState> decode_sections(std::span<const StateSection> sections, size_t vcpus) {
  SectionReader reader(sections);
  KvmState state;
  for (size_t i = 0; i < vcpus; ++i) {
    state.vcpus.push_back(TRY(reader.take<VcpuState>(vcpu_section(i))));
  }
  state.irqchip = TRY(reader.take<IrqchipState>(kIrqchip));
  state.pit = TRY(reader.take<PitState>(kPit));
  state.kvm_clock = TRY(reader.take<KvmClockState>(kKvmClock));
  state.vm_clock = TRY(reader.take<VmClockState>(VmClock::kSection));
  TRY(reader.finish());
  return state;
}

std::string describe_sections() {
  return fmt::format("vcpu\n{}{}\n{}{}\n{}{}\n{}{}\n{}", state_schema<VcpuState>(), kIrqchip,
                     state_schema<IrqchipState>(), kPit, state_schema<PitState>(), kKvmClock,
                     state_schema<KvmClockState>(), VmClock::kSection,
                     state_schema<VmClockState>());
}

}  // namespace rhea::vmm
