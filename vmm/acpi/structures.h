// The ACPI tables that C++ builds, as the specification lays them out. [ACPI-6.4 5.2]
#pragma once

#include <array>
#include <cstdint>

#include "util/endian.h"

namespace rhea::vmm::acpi {

/// Root System Description Pointer. [ACPI-6.4 5.2.5.3]
struct Rsdp {
  std::array<char, 8> signature{'R', 'S', 'D', ' ', 'P', 'T', 'R', ' '};
  uint8_t checksum = 0;  ///< over the first 20 bytes
  std::array<char, 6> oem_id{};
  uint8_t revision = 2;
  le32 rsdt_address;
  le32 length;
  le64 xsdt_address;
  uint8_t extended_checksum = 0;  ///< over all of it
  std::array<uint8_t, 3> reserved{};
};
static_assert(sizeof(Rsdp) == 36);

/// The header of every other table but the FACS. [ACPI-6.4 5.2.6]
struct TableHeader {
  std::array<char, 4> signature{};
  le32 length;
  uint8_t revision = 0;
  uint8_t checksum = 0;
  std::array<char, 6> oem_id{};
  std::array<char, 8> oem_table_id{};
  le32 oem_revision;
  std::array<char, 4> creator_id{};
  le32 creator_revision;
};
static_assert(sizeof(TableHeader) == 36);

/// Generic Address Structure. [ACPI-6.4 5.2.3.2]
struct GenericAddress {
  uint8_t space = 0;
  uint8_t bit_width = 0;
  uint8_t bit_offset = 0;
  uint8_t access_size = 0;
  le64 address;

  static constexpr uint8_t kIo = 1;
};
static_assert(sizeof(GenericAddress) == 12);

/// Fixed ACPI Description Table. [ACPI-6.4 5.2.9]
struct Fadt {
  TableHeader header;
  le32 firmware_control;
  le32 dsdt;
  uint8_t reserved1 = 0;
  uint8_t preferred_profile = 0;
  le16 sci_interrupt;
  le32 smi_command;
  uint8_t acpi_enable = 0, acpi_disable = 0, s4bios_request = 0, pstate_control = 0;
  le32 pm1a_event, pm1b_event, pm1a_control, pm1b_control, pm2_control, pm_timer, gpe0, gpe1;
  uint8_t pm1_event_length = 0, pm1_control_length = 0, pm2_control_length = 0;
  uint8_t pm_timer_length = 0, gpe0_length = 0, gpe1_length = 0, gpe1_base = 0;
  uint8_t cstate_control = 0;
  le16 c2_latency, c3_latency, flush_size, flush_stride;
  uint8_t duty_offset = 0, duty_width = 0, day_alarm = 0, month_alarm = 0, century = 0;
  le16 boot_architecture;
  uint8_t reserved2 = 0;
  le32 flags;
  GenericAddress reset_register;
  uint8_t reset_value = 0;
  le16 arm_boot_architecture;
  uint8_t minor_version = 0;
  le64 x_firmware_control, x_dsdt;
  GenericAddress x_pm1a_event, x_pm1b_event, x_pm1a_control, x_pm1b_control, x_pm2_control;
  GenericAddress x_pm_timer, x_gpe0, x_gpe1;
  GenericAddress sleep_control, sleep_status;
  std::array<char, 8> hypervisor{};
};
static_assert(sizeof(Fadt) == 276);

/// Fadt::flags and Fadt::boot_architecture. Power and sleep button: clear means fixed hardware.
enum FadtFlag : uint32_t {
  kFadtWbinvd = 1u << 0,
  kFadtC1 = 1u << 2,
  kFadtNoFixedPowerButton = 1u << 4,
  kFadtNoFixedSleepButton = 1u << 5,
  kFadtNoFixedRtcWake = 1u << 6,
  kFadtTimer32Bits = 1u << 8,
  kFadtResetRegister = 1u << 10,
};
enum FadtBootFlag : uint16_t {
  kFadtBootLegacyDevices = 1u << 0,
  kFadtBoot8042 = 1u << 1,
  kFadtBootNoVga = 1u << 2,
};

/// Firmware ACPI Control Structure; 64-byte aligned. [ACPI-6.4 5.2.10]
struct Facs {
  std::array<char, 4> signature{'F', 'A', 'C', 'S'};
  le32 length;
  le32 hardware_signature;
  le32 waking_vector;
  le32 global_lock;
  le32 flags;
  le64 x_waking_vector;
  uint8_t version = 2;
  std::array<uint8_t, 3> reserved1{};
  le32 ospm_flags;
  std::array<uint8_t, 24> reserved2{};
};
static_assert(sizeof(Facs) == 64);

/// Multiple APIC Description Table; its entries follow. [ACPI-6.4 5.2.12]
struct Madt {
  TableHeader header;
  le32 local_apic;
  le32 flags;

  static constexpr uint32_t kHas8259 = 1;
};
static_assert(sizeof(Madt) == 44);

struct MadtLocalApic {
  uint8_t type = 0, length = 8;
  uint8_t processor_uid = 0;
  uint8_t apic_id = 0;
  le32 flags = 1u;  // enabled
};
static_assert(sizeof(MadtLocalApic) == 8);

struct MadtIoApic {
  uint8_t type = 1, length = 12;
  uint8_t id = 0;
  uint8_t reserved = 0;
  le32 address;
  le32 gsi_base;
};
static_assert(sizeof(MadtIoApic) == 12);

struct MadtOverride {
  uint8_t type = 2, length = 10;
  uint8_t bus = 0;
  uint8_t isa_irq = 0;
  le32 gsi;
  le16 flags;

  static constexpr uint16_t kAsOnIsa = 0;
  static constexpr uint16_t kLevelActiveHigh = 0xd;
};
static_assert(sizeof(MadtOverride) == 10);

struct MadtLocalApicNmi {
  uint8_t type = 4, length = 6;
  uint8_t processor_uid = 0xff;  // all
  le16 flags;
  uint8_t lint = 1;
};
static_assert(sizeof(MadtLocalApicNmi) == 6);

struct MadtLocalX2Apic {
  uint8_t type = 9, length = 16;
  le16 reserved;
  le32 apic_id;
  le32 flags = 1u;  // enabled
  le32 processor_uid;
};
static_assert(sizeof(MadtLocalX2Apic) == 16);

struct MadtLocalX2ApicNmi {
  uint8_t type = 0xa, length = 12;
  le16 flags;
  le32 processor_uid = 0xffff'ffffu;  // all
  uint8_t lint = 1;
  std::array<uint8_t, 3> reserved{};
};
static_assert(sizeof(MadtLocalX2ApicNmi) == 12);

/// AML of `Name (\NAME, value)` with an integer of 64 bits. [ACPI-6.4 20.2.5.1, 20.2.3]
struct AmlNamedInteger {
  uint8_t name_op = 0x08;
  char root = '\\';
  std::array<char, 4> name{};
  uint8_t qword_prefix = 0x0e;
  le64 value;
};
static_assert(sizeof(AmlNamedInteger) == 15);

/// The integers that the DSDT is told about this machine; dsdt.asl says what they mean.
struct Ssdt {
  TableHeader header;
  AmlNamedInteger window_base{.name{'M', '6', '4', 'B'}, .value{}};
  AmlNamedInteger window_length{.name{'M', '6', '4', 'L'}, .value{}};
  AmlNamedInteger serial_ports{.name{'S', 'E', 'R', 'P'}, .value{}};
};
static_assert(sizeof(Ssdt) == 36 + 3 * 15);

}  // namespace rhea::vmm::acpi
