// Saved states that no machine of ours is in: each is refused by name, and changes nothing.
#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "tests/kvm/bare_vm.h"

using namespace rhea;
using namespace rhea::test;
using vmm::StateSection;

namespace {

constexpr uint32_t kLstar = 0xc000'0082;

using Sections = std::vector<StateSection>;

StateSection& section(Sections& sections, std::string_view name) {
  const auto at = std::ranges::find(sections, name, &StateSection::name);
  RHEA_CHECK(at != sections.end());
  return *at;
}

/// The state of the section called `name`, changed by `change`.
template <class T>
auto change(std::string name, std::function<void(T&)> edit) {
  return [name, edit](Sections& sections) {
    StateSection& at = section(sections, name);
    auto state = MUST(decode_state<T>(name, at.bytes));
    edit(state);
    at.bytes = encode_state(state);
  };
}
auto vcpu(std::function<void(vmm::VcpuState&)> edit) {
  return change<vmm::VcpuState>("vcpu 0", std::move(edit));
}
auto pit(std::function<void(vmm::PitState&)> edit) {
  return change<vmm::PitState>("kvm-pit", std::move(edit));
}
auto irqchip(std::function<void(vmm::IrqchipState&)> edit) {
  return change<vmm::IrqchipState>("kvm-irqchip", std::move(edit));
}

struct Row {
  std::function<void(Sections&)> spoil;
  std::string message;  ///< how it begins
};

std::string refusal(BareVm& vm, const Sections& sections) {
  const auto loaded = vm.load(sections);
  return loaded ? "loaded" : loaded.error().message();
}

/// What does not change by itself: the time stamp counter does.
std::vector<uint8_t> registers_of(BareVm& vm) {
  auto sections = vm.save();
  auto state = MUST(decode_state<vmm::VcpuState>("vcpu 0", section(sections, "vcpu 0").bytes));
  return encode_state(state.regs);
}

void check_rows(const std::vector<Row>& rows) {
  BareVm vm({kSpin});
  vm.reset();
  const Sections good = vm.save();
  const auto before = registers_of(vm);
  for (const Row& row : rows) {
    Sections bad = good;
    row.spoil(bad);
    // Would be seen if anything was set before the refusal.
    vcpu([](vmm::VcpuState& s) { s.regs.rbx = 0x5a5a; })(bad);
    const std::string message = refusal(vm, bad);
    INFO(row.message);
    CHECK(message.substr(0, row.message.size()) == row.message);
    CHECK(registers_of(vm) == before);
  }
  CHECK(refusal(vm, good) == "loaded");
}

}  // namespace

TEST_CASE("state: what no vCPU can be is refused by name and changes nothing", "[kvm]") {
  NEEDS_KVM();
  check_rows({
      {vcpu([](auto& s) { s.mp_state = 99; }), "vcpu 0: mp_state 0x63 is not possible"},
      {vcpu([](auto& s) { s.events.flags = 0x8000; }), "vcpu 0: events.flags 0x8000 is not"},
      {vcpu([](auto& s) { s.events.exception_injected = 1, s.events.exception_nr = 40; }),
       "vcpu 0: events.exception_nr 0x28 is not possible"},
      {vcpu([](auto& s) { s.events.exception_pending = 1, s.events.exception_nr = 2; }),
       "vcpu 0: events.exception_nr 0x2 is not possible"},
      {vcpu([](auto& s) { s.events.interrupt_shadow = 4; }), "vcpu 0: events.interrupt_shadow 0x4"},
      {vcpu([](auto& s) { s.debug.flags = 1; }), "vcpu 0: debug.flags 0x1 is not possible"},
      {vcpu([](auto& s) { s.debug.dr7 = uint64_t{1} << 40; }), "vcpu 0: debug.dr7 0x10000000000"},
      {vcpu([](auto& s) { s.sregs.efer &= ~uint64_t{0x400}; }), "vcpu 0: sregs.efer 0x100 is not"},
      {vcpu([](auto& s) { s.sregs.cr4 = 0; }), "vcpu 0: sregs.cr4 0x0 is not possible"},
      {vcpu([](auto& s) { s.sregs.flags = 2; }), "vcpu 0: sregs.flags 0x2 is not possible"},
      {vcpu([](auto& s) { s.xsave.resize(576); }),
       "vcpu 0: xsave is of 576 bytes, this host takes"},
      {vcpu([](auto& s) { s.xsave.resize(65536); }), "vcpu 0: xsave is of 65536 bytes"},
      {vcpu([](auto& s) { s.xcrs = {{.index = 1, .value = 1}}; }), "vcpu 0: xcrs: index 0x1"},
      {vcpu([](auto& s) { s.xcrs = {{.index = 0, .value = 2}}; }), "vcpu 0: xcrs: XCR0 0x2"},
      {vcpu([](auto& s) { s.msrs.push_back({.index = 0xdead, .value = 1}); }),
       "vcpu 0: msr 0xdead does not exist on this host"},
      {vcpu([](auto& s) { s.msrs.push_back(s.msrs.front()); }), "vcpu 0: msr 0x10 is there twice"},
  });
}

TEST_CASE("state: a guest of another processor is refused with the leaf and its bits", "[kvm]") {
  NEEDS_KVM();
  const auto leaf = [](vmm::VcpuState& s, uint32_t function) -> vmm::CpuidState& {
    return *std::ranges::find(s.cpuid, function, &vmm::CpuidState::function);
  };
  check_rows({
      {vcpu([&](auto& s) { leaf(s, 1).edx ^= 1U << 25; }),
       "vcpu 0: CPUID leaf 0x1, index 0, edx: the guest was started with bits 0x0 that are not set "
       "on this host, and without 0x2000000, which are"},
      {vcpu([&](auto& s) { leaf(s, 0).eax = 0xff; }), "vcpu 0: CPUID leaf 0x0, index 0, eax: "},
      {vcpu([](auto& s) { s.cpuid.push_back({.function = 0x77, .ecx = 5}); }),
       "vcpu 0: CPUID leaf 0x77, index 0, ecx: the guest was started with bits 0x5 that"},
      {vcpu([](auto& s) { s.cpuid.clear(); }), "vcpu 0: CPUID leaf 0x0, index 0, e"},
  });
}

TEST_CASE("state: what no interrupt controller, timer or clock can be is refused", "[kvm]") {
  NEEDS_KVM();
  check_rows({
      {pit([](auto& s) { s.channels[1].count = 65537; }),
       "kvm-pit: channels: count 0x10001 is not"},
      {pit([](auto& s) { s.channels[0].mode = 8; }), "kvm-pit: channels: mode 0x8 is not"},
      {pit([](auto& s) { s.channels[2].rw_mode = 4; }), "kvm-pit: channels: rw_mode 0x4 is not"},
      {pit([](auto& s) { s.channels[2].read_state = 5; }), "kvm-pit: channels: read_state 0x5"},
      {pit([](auto& s) { s.channels[2].gate = 2; }), "kvm-pit: channels: gate 0x2 is not"},
      {pit([](auto& s) { s.flags = 4; }), "kvm-pit: flags 0x4 is not possible"},
      {irqchip([](auto& s) { s.slave.init_state = 4; }),
       "kvm-irqchip: slave.init_state 0x4 is not"},
      {irqchip([](auto& s) { s.master.priority_add = 8; }), "kvm-irqchip: master.priority_add 0x8"},
      {irqchip([](auto& s) { s.ioapic.base_address += 0x1000; }),
       "kvm-irqchip: ioapic.base_address 0xfec01000 is not possible"},
      {irqchip([](auto& s) { s.ioapic.irr = 1U << 24; }),
       "kvm-irqchip: ioapic.irr 0x1000000 is not"},
      {change<vmm::KvmClockState>("kvm-clock", [](auto& s) { s.nanoseconds = ~uint64_t{0}; }),
       "kvm-clock: nanoseconds 0xffffffffffffffff is not possible"},
      {change<vmm::VmClockState>("vm-clock", [](auto& s) { s.nanoseconds = -1; }),
       "vm-clock: nanoseconds -1 is not possible"},
  });
}

TEST_CASE("state: sections that are missing, too many or cut are refused", "[kvm]") {
  NEEDS_KVM();
  BareVm vm({kSpin});
  vm.reset();
  const Sections good = vm.save();
  const auto before = registers_of(vm);
  for (size_t i = 0; i < good.size(); ++i) {
    Sections bad = good;
    bad.erase(bad.begin() + static_cast<ptrdiff_t>(i));
    CHECK(refusal(vm, bad) == fmt::format("the state of '{}' is missing", good[i].name));
    bad = good;
    bad[i].bytes.pop_back();
    CHECK_THAT(refusal(vm, bad), Catch::StartsWith(good[i].name + ": "));
    bad = good;
    bad.push_back(good[i]);
    CHECK(refusal(vm, bad) == fmt::format("a state of '{}' too many", good[i].name));
  }
  Sections more = good;
  more.push_back({.name = "vcpu 1", .bytes = section(more, "vcpu 0").bytes});
  CHECK(refusal(vm, more) == "a state of 'vcpu 1' too many");
  CHECK(registers_of(vm) == before);
  CHECK(refusal(vm, good) == "loaded");
}

TEST_CASE("state: what KVM alone can refuse is refused with the group or the MSR", "[kvm]") {
  NEEDS_KVM();
  BareVm vm({kSpin});
  vm.reset();
  const Sections good = vm.save();
  Sections bad = good;
  vcpu([](auto& s) { s.sregs.cr4 |= uint64_t{1} << 31; })(bad);
  CHECK_THAT(refusal(vm, bad), Catch::StartsWith("vcpu 0: KVM_SET_SREGS"));
  bad = good;
  vcpu([](auto& s) {
    std::ranges::find(s.msrs, kLstar, &vmm::NumberedRegister::index)->value = uint64_t{1} << 63;
  })(bad);
  CHECK(refusal(vm, bad) ==
        "vcpu 0: KVM_SET_MSRS: msr 0xc0000082 can not be 0x8000000000000000 on this host");
  vm.reset();  // which is what such a machine is fit for
  CHECK(refusal(vm, good) == "loaded");
}
