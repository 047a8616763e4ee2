// What a vCPU is between two instructions, as plain structs that are saved and loaded.
//
// The fields are those of KVM's structures of the same names, without what KVM keeps for itself.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace rhea::vmm {

inline constexpr size_t kMaxCpuidEntries = 512;
inline constexpr size_t kMaxMsrs = 4096;
inline constexpr size_t kMaxXcrs = 16;
inline constexpr size_t kMaxXsaveBytes = 65536;

/// A number in a list of numbers.
struct U64State {
  uint64_t value = 0;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("value", s.value);
  }
};

struct CpuidState {
  uint32_t function = 0, index = 0, flags = 0, eax = 0, ebx = 0, ecx = 0, edx = 0;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("function", s.function);
    v.field("index", s.index);
    v.field("flags", s.flags);
    v.field("eax", s.eax);
    v.field("ebx", s.ebx);
    v.field("ecx", s.ecx);
    v.field("edx", s.edx);
  }
};

struct GeneralRegisters {
  uint64_t rax = 0, rbx = 0, rcx = 0, rdx = 0, rsi = 0, rdi = 0, rsp = 0, rbp = 0;
  uint64_t r8 = 0, r9 = 0, r10 = 0, r11 = 0, r12 = 0, r13 = 0, r14 = 0, r15 = 0;
  uint64_t rip = 0, rflags = 0;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("rax", s.rax);
    v.field("rbx", s.rbx);
    v.field("rcx", s.rcx);
    v.field("rdx", s.rdx);
    v.field("rsi", s.rsi);
    v.field("rdi", s.rdi);
    v.field("rsp", s.rsp);
    v.field("rbp", s.rbp);
    v.field("r8", s.r8);
    v.field("r9", s.r9);
    v.field("r10", s.r10);
    v.field("r11", s.r11);
    v.field("r12", s.r12);
    v.field("r13", s.r13);
    v.field("r14", s.r14);
    v.field("r15", s.r15);
    v.field("rip", s.rip);
    v.field("rflags", s.rflags);
  }
};

struct SegmentRegister {
  uint64_t base = 0;
  uint32_t limit = 0;
  uint16_t selector = 0;
  uint8_t type = 0, present = 0, dpl = 0, db = 0, s = 0, l = 0, g = 0, avl = 0, unusable = 0;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& self) {
    v.field("base", self.base);
    v.field("limit", self.limit);
    v.field("selector", self.selector);
    v.field("type", self.type);
    v.field("present", self.present);
    v.field("dpl", self.dpl);
    v.field("db", self.db);
    v.field("s", self.s);
    v.field("l", self.l);
    v.field("g", self.g);
    v.field("avl", self.avl);
    v.field("unusable", self.unusable);
  }
};

struct TableRegister {
  uint64_t base = 0;
  uint16_t limit = 0;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("base", s.base);
    v.field("limit", s.limit);
  }
};

struct SystemRegisters {
  SegmentRegister cs, ds, es, fs, gs, ss, tr, ldt;
  TableRegister gdt, idt;
  uint64_t cr0 = 0, cr2 = 0, cr3 = 0, cr4 = 0, cr8 = 0, efer = 0, apic_base = 0;
  /// KVM_SREGS2_FLAGS_PDPTRS_VALID: PAE paging goes by these, whatever RAM holds at CR3 now.
  uint64_t flags = 0;
  std::array<U64State, 4> pdptrs{};
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("cs", s.cs);
    v.field("ds", s.ds);
    v.field("es", s.es);
    v.field("fs", s.fs);
    v.field("gs", s.gs);
    v.field("ss", s.ss);
    v.field("tr", s.tr);
    v.field("ldt", s.ldt);
    v.field("gdt", s.gdt);
    v.field("idt", s.idt);
    v.field("cr0", s.cr0);
    v.field("cr2", s.cr2);
    v.field("cr3", s.cr3);
    v.field("cr4", s.cr4);
    v.field("cr8", s.cr8);
    v.field("efer", s.efer);
    v.field("apic_base", s.apic_base);
    v.field("flags", s.flags);
    v.field("pdptrs", s.pdptrs);
  }
};

/// A register by its number: an MSR or an XCR.
struct NumberedRegister {
  uint32_t index = 0;
  uint64_t value = 0;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("index", s.index);
    v.field("value", s.value);
  }
};

struct DebugRegisters {
  std::array<U64State, 4> db{};
  uint64_t dr6 = 0, dr7 = 0, flags = 0;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("db", s.db);
    v.field("dr6", s.dr6);
    v.field("dr7", s.dr7);
    v.field("flags", s.flags);
  }
};

/// Events on their way into the vCPU.
struct VcpuEventsState {
  uint8_t exception_injected = 0, exception_nr = 0, exception_has_error_code = 0;
  uint8_t exception_pending = 0;
  uint32_t exception_error_code = 0;
  uint8_t interrupt_injected = 0, interrupt_nr = 0, interrupt_soft = 0, interrupt_shadow = 0;
  uint8_t nmi_injected = 0, nmi_pending = 0, nmi_masked = 0;
  uint32_t sipi_vector = 0, flags = 0;
  uint8_t smi_smm = 0, smi_pending = 0, smi_inside_nmi = 0, smi_latched_init = 0;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("exception_injected", s.exception_injected);
    v.field("exception_nr", s.exception_nr);
    v.field("exception_has_error_code", s.exception_has_error_code);
    v.field("exception_pending", s.exception_pending);
    v.field("exception_error_code", s.exception_error_code);
    v.field("interrupt_injected", s.interrupt_injected);
    v.field("interrupt_nr", s.interrupt_nr);
    v.field("interrupt_soft", s.interrupt_soft);
    v.field("interrupt_shadow", s.interrupt_shadow);
    v.field("nmi_injected", s.nmi_injected);
    v.field("nmi_pending", s.nmi_pending);
    v.field("nmi_masked", s.nmi_masked);
    v.field("sipi_vector", s.sipi_vector);
    v.field("flags", s.flags);
    v.field("smi_smm", s.smi_smm);
    v.field("smi_pending", s.smi_pending);
    v.field("smi_inside_nmi", s.smi_inside_nmi);
    v.field("smi_latched_init", s.smi_latched_init);
  }
};

struct VcpuState {
  std::vector<CpuidState> cpuid;  ///< what the guest was promised; compared, never set
  uint32_t tsc_khz = 0;           ///< 0: the source's KVM could not say
  uint32_t mp_state = 0;
  GeneralRegisters regs;
  SystemRegisters sregs;
  std::vector<uint8_t> xsave;  ///< the standard (not compacted) XSAVE format
  std::vector<NumberedRegister> xcrs;
  std::array<uint8_t, 1024> lapic{};  ///< its register page
  std::vector<NumberedRegister> msrs;
  DebugRegisters debug;
  VcpuEventsState events;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("cpuid", s.cpuid, kMaxCpuidEntries);
    v.field("tsc_khz", s.tsc_khz);
    v.field("mp_state", s.mp_state);
    v.field("regs", s.regs);
    v.field("sregs", s.sregs);
    v.field("xsave", s.xsave, kMaxXsaveBytes);
    v.field("xcrs", s.xcrs, kMaxXcrs);
    v.field("lapic", s.lapic);
    v.field("msrs", s.msrs, kMaxMsrs);
    v.field("debug", s.debug);
    v.field("events", s.events);
  }
};

}  // namespace rhea::vmm
