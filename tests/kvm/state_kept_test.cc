// What one machine holds in KVM, another holds after a load: group by group and field by field, as
// KVM tells both.
#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "tests/kvm/bare_vm.h"
#include "tests/kvm/raw_vcpu.h"
#include "util/crc32c.h"
#include "vmm/kvm/kvm_msrs.h"

using namespace rhea;
using namespace rhea::test;

namespace {

constexpr uint64_t kOsxsave = 1U << 18;  // of CR4
constexpr uint64_t kX2Apic = 1U << 10;   // of the APIC base
constexpr uint32_t kTscAux = 0xc000'0103;

/// By field.
using Facts = std::map<std::string, uint64_t>;

struct Group {
  std::function<void(const RawVcpu&)> put;
  Facts wanted;  ///< what it puts there
  std::function<Facts(const RawVcpu&)> tell;
};

/// What KVM does not keep in the machine that it is put in is left out, with a warning.
void check_kept(const Group& group) {
  BareVm source({kSpin}), target({kSpin});
  source.reset(), target.reset();
  const RawVcpu from(source), to(target);
  const Facts before = group.tell(to);
  group.put(from);
  const Facts kept = group.tell(from);
  MUST(target.load(source.save()));
  const Facts after = group.tell(to);
  std::string not_kept;
  for (const auto& [name, value] : group.wanted) {
    if (kept.at(name) != value) {
      not_kept += " " + name;
      continue;
    }
    INFO(name);
    CHECK(before.at(name) != value);  // or nobody would see that it was left out
    CHECK(after.at(name) == value);
  }
  if (!not_kept.empty()) WARN("SKIP: this host's KVM does not keep" + not_kept);
}

/// A field of one of KVM's structures, and what is put there.
template <class T>
struct Field {
  std::string name;
  uint64_t value;
  std::function<void(T&, uint64_t)> put;
  std::function<uint64_t(const T&)> tell;
};
#define FIELD(member, value)                                                 \
  {#member, value,                                                           \
   [](auto& s, uint64_t v) {                                                 \
     s.member = static_cast<std::remove_reference_t<decltype(s.member)>>(v); \
   },                                                                        \
   [](const auto& s) { return static_cast<uint64_t>(s.member); }}

template <class T>
using Fields = std::vector<Field<T>>;

/// How a structure is got and set.
template <class T>
struct Access {
  std::function<T(const RawVcpu&)> get;
  std::function<void(const RawVcpu&, const T&)> set;
};
template <class T>
Access<T> of_vcpu(unsigned long get, unsigned long set) {
  return {[get](const RawVcpu& vcpu) { return vcpu.get<T>(get); },
          [set](const RawVcpu& vcpu, const T& state) { vcpu.set(set, state); }};
}

/// The structure as it is with these fields changed, and what `also` does to it.
template <class T>
Group group(const Access<T>& access, const Fields<T>& fields, std::function<void(T&)> also = {}) {
  Facts wanted;
  for (const Field<T>& field : fields) wanted[field.name] = field.value;
  return {[=](const RawVcpu& vcpu) {
            T state = access.get(vcpu);
            for (const Field<T>& field : fields) field.put(state, field.value);
            if (also) also(state);
            access.set(vcpu, state);
          },
          wanted,
          [=](const RawVcpu& vcpu) {
            const T state = access.get(vcpu);
            Facts facts;
            for (const Field<T>& field : fields) facts[field.name] = field.tell(state);
            return facts;
          }};
}

void check_events(const Fields<kvm_vcpu_events>& fields) {
  check_kept(group<kvm_vcpu_events>(
      of_vcpu<kvm_vcpu_events>(KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS), fields, [](auto& events) {
        events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
      }));
}

Access<kvm_irqchip> chip(uint32_t number) {
  return {[number](const RawVcpu& vcpu) { return vcpu.chip(number); },
          [](const RawVcpu& vcpu, const kvm_irqchip& state) { vcpu.set_chip(state); }};
}

Field<kvm_lapic_state> lapic_field(size_t offset, uint32_t value) {
  return {
      fmt::format("lapic {:#x}", offset), value,
      [=](auto& lapic, uint64_t v) { set_lapic_register(lapic, offset, static_cast<uint32_t>(v)); },
      [=](const auto& lapic) { return uint64_t{lapic_register(lapic, offset)}; }};
}
const auto kLapic = of_vcpu<kvm_lapic_state>(KVM_GET_LAPIC, KVM_SET_LAPIC);

bool guests_have_tsc_aux() {
  BareVm vm({kSpin});
  const auto named = MUST(vmm::msr_indices(vm.accel().vm().device_fd()));
  return std::ranges::find(named, kTscAux) != named.end();
}

struct Msr {
  const char* name;
  uint32_t index;
  uint64_t value;
};
// [SDM vol. 4]; the last are KVM's own, and name memory that no vCPU has in use here.
const std::vector<Msr> kMsrs{{"TSC_ADJUST", 0x3b, 0x1'2345'6789},
                             {"SPEC_CTRL", 0x48, 1},
                             {"MISC_FEATURES_ENABLES", 0x140, 1},
                             {"SYSENTER_CS", 0x174, 0x10},
                             {"SYSENTER_ESP", 0x175, 0xffff'c900'000f'f000},
                             {"SYSENTER_EIP", 0x176, 0xffff'ffff'8100'0200},
                             {"MCG_STATUS", 0x17a, 4},
                             {"MISC_ENABLE", 0x1a0, 0},
                             {"MTRR_PHYSBASE0", 0x200, 0x8000'0006},
                             {"MTRR_PHYSMASK0", 0x201, 0x3fff'8000'0800},
                             {"MTRR_PHYSBASE7", 0x20e, 0xc000'0000},
                             {"MTRR_PHYSMASK7", 0x20f, 0x3fff'c000'0800},
                             {"MTRR_FIX64K_00000", 0x250, 0x0606'0606'0606'0606},
                             {"MTRR_FIX16K_80000", 0x258, 0x0606'0606'0606'0605},
                             {"MTRR_FIX16K_A0000", 0x259, 1},
                             {"MTRR_FIX4K_C0000", 0x268, 0x0505'0505'0505'0505},
                             {"MTRR_FIX4K_F8000", 0x26f, 0x0404'0404'0404'0404},
                             {"PAT", 0x277, 0x0007'0106'0007'0106},
                             {"MTRR_DEF_TYPE", 0x2ff, 0xc06},
                             {"MC0_CTL", 0x400, ~uint64_t{0}},
                             {"MC0_STATUS", 0x401, 0x1234},
                             {"MC0_ADDR", 0x402, 0x5678'9000},
                             {"MC9_MISC", 0x427, 0x77},
                             {"STAR", 0xc000'0081, 0x23'0010'0000'0000},
                             {"LSTAR", 0xc000'0082, 0xffff'ffff'8100'0000},
                             {"CSTAR", 0xc000'0083, 0xffff'ffff'8100'0100},
                             {"FMASK", 0xc000'0084, 0x4'7700},
                             {"KERNEL_GS_BASE", 0xc000'0102, 0xffff'8880'0000'1000},
                             {"TSC_AUX", kTscAux, 0x3007},
                             {"KVM_SYSTEM_TIME", 0x4b56'4d01, 0x9101},
                             {"KVM_STEAL_TIME", 0x4b56'4d03, 0x9041},
                             {"KVM_PV_EOI", 0x4b56'4d04, 0x9081},
                             {"KVM_POLL_CONTROL", 0x4b56'4d05, 0},
                             {"KVM_ASYNC_PF_INT", 0x4b56'4d06, 0x41}};

Facts xsave_facts(const RawVcpu& vcpu, const std::vector<uint8_t>& area) {
  const auto sum = [&area](size_t offset, size_t bytes) {
    return uint64_t{
        crc32c(std::string_view(reinterpret_cast<const char*>(area.data()) + offset, bytes))};
  };
  Facts facts{{"FCW, FSW, FTW", sum(0, 5)},
              {"MXCSR", sum(24, 4)},
              {"x87", sum(32, 128)},
              {"SSE", sum(160, 256)}};
  for (const XsaveComponent& component : xsave_components(vcpu.xfeatures())) {
    facts[component.name] = sum(component.offset, component.bytes);
  }
  return facts;
}

}  // namespace

TEST_CASE("state kept: general registers", "[kvm]") {
  NEEDS_KVM();
  check_kept(group<kvm_regs>(of_vcpu<kvm_regs>(KVM_GET_REGS, KVM_SET_REGS),
                             {FIELD(rax, 0x1111'2222'3333'0001), FIELD(rbx, 0x1111'2222'3333'0002),
                              FIELD(rcx, 0x1111'2222'3333'0003), FIELD(rdx, 0x1111'2222'3333'0004),
                              FIELD(rsi, 0x1111'2222'3333'0005), FIELD(rdi, 0x1111'2222'3333'0006),
                              FIELD(rsp, 0x1111'2222'3333'0007), FIELD(rbp, 0x1111'2222'3333'0008),
                              FIELD(r8, 0x1111'2222'3333'0009), FIELD(r9, 0x1111'2222'3333'000a),
                              FIELD(r10, 0x1111'2222'3333'000b), FIELD(r11, 0x1111'2222'3333'000c),
                              FIELD(r12, 0x1111'2222'3333'000d), FIELD(r13, 0x1111'2222'3333'000e),
                              FIELD(r14, 0x1111'2222'3333'000f), FIELD(r15, 0x1111'2222'3333'0010),
                              FIELD(rip, 0x1'1234), FIELD(rflags, 0x0004'0ed7)}));
}

TEST_CASE("state kept: segments, tables and control registers", "[kvm]") {
  NEEDS_KVM();
  // In user mode, with all tables elsewhere.
  check_kept(group<kvm_sregs>(of_vcpu<kvm_sregs>(KVM_GET_SREGS, KVM_SET_SREGS),
                              {FIELD(cs.selector, 0x33),
                               FIELD(cs.dpl, 3),
                               FIELD(ss.selector, 0x2b),
                               FIELD(ss.dpl, 3),
                               FIELD(ds.selector, 0x3b),
                               FIELD(ds.dpl, 3),
                               FIELD(es.selector, 0x43),
                               FIELD(es.limit, 0xf'ffff),
                               FIELD(es.g, 0),
                               FIELD(es.avl, 1),
                               FIELD(fs.selector, 0x4b),
                               FIELD(fs.base, 0x7fff'1234'5000),
                               FIELD(gs.selector, 0x53),
                               FIELD(gs.base, 0xffff'8880'1234'5000),
                               FIELD(ldt.selector, 0x58),
                               FIELD(ldt.base, 0x6000),
                               FIELD(ldt.limit, 0xfff),
                               FIELD(tr.selector, 0x60),
                               FIELD(tr.base, 0x7000),
                               FIELD(tr.limit, 0x2067),
                               FIELD(gdt.base, 0x5000),
                               FIELD(gdt.limit, 0x8f),
                               FIELD(idt.base, 0x4000),
                               FIELD(idt.limit, 0xfff),
                               FIELD(cr0, 0x8005'0033),
                               FIELD(cr2, 0x7fff'0123'4567),
                               FIELD(cr3, 0xb000),
                               FIELD(cr4, 0x6a0),
                               FIELD(cr8, 5),
                               FIELD(efer, 0xd01),
                               FIELD(apic_base, 0xfee0'0d00)},
                              [](auto& sregs) {
                                sregs.ldt.type = 2, sregs.ldt.present = 1, sregs.ldt.unusable = 0;
                                sregs.es.present = 1;
                              }));
}

TEST_CASE("state kept: PAE page-directory pointers that RAM no longer holds", "[kvm]") {
  NEEDS_KVM();
  {
    BareVm vm({kSpin});
    if (vm.accel().vm().capability(KVM_CAP_SREGS2) == 0) {
      WARN("SKIP: this host's KVM has no KVM_CAP_SREGS2");
      return;
    }
  }
  check_kept(group<kvm_sregs2>(
      of_vcpu<kvm_sregs2>(KVM_GET_SREGS2, KVM_SET_SREGS2),
      {FIELD(pdptrs[0], 0x1'1001), FIELD(pdptrs[1], 0x1'2001), FIELD(pdptrs[2], 0x1'3001),
       FIELD(pdptrs[3], 0x1'4001), FIELD(flags, KVM_SREGS2_FLAGS_PDPTRS_VALID)},
      [](auto& sregs) {
        sregs.efer = 0, sregs.cr4 = 0x20;
        sregs.cs.l = 0, sregs.cs.db = 1;
      }));
}

TEST_CASE("state kept: debug registers", "[kvm]") {
  NEEDS_KVM();
  check_kept(group<kvm_debugregs>(
      of_vcpu<kvm_debugregs>(KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS),
      {FIELD(db[0], 0x1001), FIELD(db[1], 0x7fff'0000'2002), FIELD(db[2], 0x3003),
       FIELD(db[3], 0x4004), FIELD(dr6, 0xffff'4ff5),  // BS, B2, B0
       FIELD(dr7, 0x0005'0502)}));                     // G0, on writes of 2 bytes
}

TEST_CASE("state kept: an exception, an interrupt, an NMI and a shadow", "[kvm]") {
  NEEDS_KVM();
  check_events({FIELD(exception.injected, 1), FIELD(exception.nr, 14),
                FIELD(exception.has_error_code, 1), FIELD(exception.error_code, 6)});
  check_events({FIELD(interrupt.injected, 1), FIELD(interrupt.nr, 0x51)});
  check_events({FIELD(nmi.injected, 1), FIELD(nmi.pending, 1), FIELD(nmi.masked, 1)});
  check_events({FIELD(interrupt.shadow, KVM_X86_SHADOW_INT_STI)});
  check_events({FIELD(interrupt.shadow, KVM_X86_SHADOW_INT_MOV_SS)});
}

TEST_CASE("state kept: x87, SSE, AVX and what else XCR0 may name", "[kvm]") {
  NEEDS_KVM();
  std::vector<uint8_t> crafted;
  Facts wanted;
  uint64_t xfeatures = 0;
  {
    BareVm vm({kSpin});
    const RawVcpu vcpu(vm);
    xfeatures = vcpu.xfeatures();
    const auto components = xsave_components(xfeatures);
    crafted = filled_xsave(vcpu.xsave(), components);
    wanted = xsave_facts(vcpu, crafted);
    wanted["XCR0"] = 3;
    for (const XsaveComponent& component : components)
      wanted["XCR0"] |= uint64_t{1} << component.number;
    if (components.empty()) WARN("SKIP: this host's KVM keeps no more than x87 and SSE");
  }
  check_kept({.put =
                  [&](const RawVcpu& vcpu) {
                    auto sregs = vcpu.get<kvm_sregs>(KVM_GET_SREGS);
                    sregs.cr4 |= kOsxsave;
                    vcpu.set(KVM_SET_SREGS, sregs);
                    auto xcrs = vcpu.get<kvm_xcrs>(KVM_GET_XCRS);
                    xcrs.xcrs[0].value = wanted["XCR0"];
                    vcpu.set(KVM_SET_XCRS, xcrs);
                    vcpu.set_xsave(crafted);
                  },
              .wanted = wanted,
              .tell =
                  [](const RawVcpu& vcpu) {
                    Facts facts = xsave_facts(vcpu, vcpu.xsave());
                    facts["XCR0"] = vcpu.get<kvm_xcrs>(KVM_GET_XCRS).xcrs[0].value;
                    return facts;
                  }});
}

TEST_CASE("state kept: model-specific registers", "[kvm]") {
  NEEDS_KVM();
  Facts wanted;
  for (const Msr& row : kMsrs) wanted[row.name] = row.value;
  if (!guests_have_tsc_aux()) {
    WARN("SKIP: this host's KVM has no RDTSCP for guests, and so no TSC_AUX");
    wanted.erase("TSC_AUX");
  }
  check_kept({.put =
                  [](const RawVcpu& vcpu) {
                    for (const Msr& row : kMsrs) vcpu.set_msr(row.index, row.value);
                  },
              .wanted = wanted,
              .tell =
                  [](const RawVcpu& vcpu) {
                    Facts facts;
                    for (const Msr& row : kMsrs)
                      facts[row.name] = vcpu.msr(row.index).value_or(~row.value);
                    return facts;
                  }});
}

TEST_CASE("state kept: the LAPIC's registers", "[kvm]") {
  NEEDS_KVM();
  check_kept(group<kvm_lapic_state>(
      kLapic,
      {lapic_field(0x80, 0x50), lapic_field(0xd0, 0x0400'0000), lapic_field(0xe0, 0x0fff'ffff),
       lapic_field(kSpurious, 0x1ff - 0x10), lapic_field(0x120, 1U << 17),
       lapic_field(0x1a0, 1U << 17), lapic_field(kIrr + 0x20, 2), lapic_field(0x280, 0x40),
       lapic_field(0x300, 0x0c'4051), lapic_field(kIcrHigh, 0x0300'0000),
       lapic_field(kTimerEntry, 0x3'0052), lapic_field(0x330, 0x1'0053),
       lapic_field(0x340, 0x1'0054), lapic_field(0x350, 0x1'0755), lapic_field(0x360, 0x400),
       lapic_field(0x370, 0x56), lapic_field(0x380, 0x7fff'ffff), lapic_field(0x3e0, 0xb)}));
}

TEST_CASE("state kept: the registers of a LAPIC that is an x2APIC", "[kvm]") {
  NEEDS_KVM();
  Group registers = group<kvm_lapic_state>(
      kLapic, {lapic_field(0x80, 0x50), lapic_field(kSpurious, 0x1ef), lapic_field(0x300, 0xc'4051),
               lapic_field(kIcrHigh, 3), lapic_field(kTimerEntry, 0x3'0052)});
  registers.put = [put = registers.put](const RawVcpu& vcpu) {
    auto sregs = vcpu.get<kvm_sregs>(KVM_GET_SREGS);
    sregs.apic_base |= kX2Apic;
    vcpu.set(KVM_SET_SREGS, sregs);
    put(vcpu);
  };
  check_kept(registers);
}

TEST_CASE("state kept: both PICs, the IOAPIC and the PIT", "[kvm]") {
  NEEDS_KVM();
  const Fields<kvm_irqchip> pic{FIELD(chip.pic.imr, 0xff),
                                FIELD(chip.pic.last_irr, 0x10),
                                FIELD(chip.pic.isr, 0x08),
                                FIELD(chip.pic.priority_add, 3),
                                FIELD(chip.pic.irq_base, 0x28),
                                FIELD(chip.pic.read_reg_select, 1),
                                FIELD(chip.pic.special_mask, 1),
                                FIELD(chip.pic.auto_eoi, 1),
                                FIELD(chip.pic.rotate_on_auto_eoi, 1),
                                FIELD(chip.pic.special_fully_nested_mode, 1),
                                FIELD(chip.pic.init4, 1),
                                FIELD(chip.pic.elcr, 0x20)};
  check_kept(group<kvm_irqchip>(chip(KVM_IRQCHIP_PIC_MASTER), pic));
  check_kept(group<kvm_irqchip>(chip(KVM_IRQCHIP_PIC_SLAVE), pic));
  check_kept(group<kvm_irqchip>(chip(KVM_IRQCHIP_IOAPIC),
                                {FIELD(chip.ioapic.ioregsel, 0x13), FIELD(chip.ioapic.id, 7),
                                 FIELD(chip.ioapic.redirtbl[0].bits, 0x0100'0000'0001'0031),
                                 FIELD(chip.ioapic.redirtbl[9].bits, 0x0200'0000'0001'8832),
                                 FIELD(chip.ioapic.redirtbl[23].bits, 0x0300'0000'0001'a133)}));
  const Access<kvm_pit_state2> pit{
      [](const RawVcpu& vcpu) { return kvm_get<kvm_pit_state2>(vcpu.vm_fd(), KVM_GET_PIT2); },
      [](const RawVcpu& vcpu, kvm_pit_state2 state) {
        MUST(KVM_IOCTL(vcpu.vm_fd(), KVM_SET_PIT2, &state));
      }};
  check_kept(group<kvm_pit_state2>(
      pit,
      {FIELD(channels[0].count, 0x1234), FIELD(channels[0].mode, 2), FIELD(channels[0].rw_mode, 3),
       FIELD(channels[1].count, 0x12), FIELD(channels[1].mode, 2), FIELD(channels[1].rw_mode, 1),
       FIELD(channels[2].count, 0x4321), FIELD(channels[2].mode, 3), FIELD(channels[2].rw_mode, 2),
       FIELD(channels[2].bcd, 1), FIELD(channels[2].gate, 1), FIELD(channels[2].count_latched, 3),
       FIELD(channels[2].latched_count, 0x4320), FIELD(channels[2].status_latched, 1),
       FIELD(channels[2].status, 0x36), FIELD(channels[2].read_state, 3),
       FIELD(channels[2].write_state, 4), FIELD(channels[2].write_latch, 0x77),
       FIELD(flags, KVM_PIT_FLAGS_SPEAKER_DATA_ON)}));
}
