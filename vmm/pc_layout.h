// The guest-visible addresses, ports and interrupt wiring of the machine `pc`, in one place: the
// machine builds from it, the ACPI tables describe it.
#pragma once

#include <cstdint>

#include "memory/guest_addr.h"

namespace rhea::vmm::pc {

using memory::GuestAddr;

// Memory. RAM fills the address space up to the PCI hole, the rest of it starts at 4 GiB.
inline constexpr uint64_t kMaxLowRam = 0xc000'0000;
inline constexpr GuestAddr kHighRam{0x1'0000'0000};
inline constexpr GuestAddr kPciWindow{kMaxLowRam};
inline constexpr uint64_t kPciWindowSize = 0xfec0'0000 - kMaxLowRam;
inline constexpr GuestAddr kIoApic{0xfec0'0000};
inline constexpr GuestAddr kLocalApic{0xfee0'0000};
/// Four pages for KVM's own use on Intel hosts: the identity map (first page) and the TSS (next
/// three). The guest is told to keep off.
inline constexpr GuestAddr kKvmPages{0xfeff'c000};
inline constexpr uint64_t kKvmPagesSize = 0x4000;
/// The 64-bit PCI window lies above RAM, aligned to and not larger than this.
inline constexpr uint64_t kPciWindow64Align = uint64_t{1} << 30;
inline constexpr uint64_t kPciWindow64MaxSize = uint64_t{64} << 30;

// Conventional memory and the legacy hole above it. The ACPI tables lie where a BIOS would be, so
// that a guest that is not told the RSDP's address finds it by scanning. [ACPI-6.4 5.2.5.1]
inline constexpr uint64_t kConventionalRam = 0xa'0000;
inline constexpr GuestAddr kAcpiTables{0xe'0000};
inline constexpr uint64_t kAcpiTablesSize = 0x2'0000;
inline constexpr GuestAddr kExtendedRam{0x10'0000};

// Ports.
inline constexpr uint16_t kPmEventPort = 0x600;
inline constexpr uint16_t kPmControlPort = 0x604;
inline constexpr uint16_t kPmTimerPort = 0x608;
inline constexpr uint16_t kPciHotplugPort = 0xae00;
inline constexpr uint16_t kGpePort = 0xafe0;
inline constexpr uint8_t kGpeLength = 4;
inline constexpr uint16_t kResetPort = 0xcf9;
inline constexpr uint8_t kResetValue = 0x06;  // hard reset, as a rising edge of the reset bit
inline constexpr unsigned kPmTimerBits = 24;
inline constexpr uint8_t kRtcCenturyIndex = 0x32;

// Interrupts. GSI n is pin n of the one IOAPIC; the MADT sends ISA interrupt 0 (the PIT) to GSI 2,
// so whoever routes for KVM connects the PIT's line 0 to the PIC's input 0 and to IOAPIC pin 2, and
// leaves GSI 2 (the PIC's cascade) unconnected.
inline constexpr unsigned kIoApicPins = 24;
inline constexpr uint32_t kPitGsi = 2;
inline constexpr uint32_t kSciGsi = 9;
/// The four wires of PCI bus 0 go straight to the pins no ISA device has; wire = (slot + pin) % 4,
/// with pin 0 for INTA. There are no link devices and the PIC does not see these wires, so a guest
/// without an IOAPIC driver must use MSI.
inline constexpr uint32_t kFirstIntxGsi = 16;
inline constexpr unsigned kIntxWires = 4;
constexpr uint32_t intx_gsi(unsigned slot, unsigned pin) noexcept {
  return kFirstIntxGsi + (slot + pin) % kIntxWires;
}

}  // namespace rhea::vmm::pc
