#include "vmm/acpi/tables.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <span>
#include <string_view>

#include "memory/address_space.h"
#include "vmm/acpi/structures.h"
#include "vmm/dsdt_aml.h"
#include "vmm/pc_layout.h"

namespace rhea::vmm {
namespace {

using namespace acpi;
using memory::GuestAddr;

constexpr size_t kTableAlignment = 64;  // what the FACS needs is fine for all
constexpr uint8_t kFadtRevision = 6;
constexpr uint8_t kFadtMinorRevision = 3;
constexpr uint8_t kMadtRevision = 5;
constexpr uint8_t kSsdtRevision = 2;  // integers of 64 bits
constexpr uint8_t kXsdtRevision = 1;
// Latencies above 100 and 1000 us say that there are no C2 and C3. [ACPI-6.4 5.2.9]
constexpr uint16_t kNoC2 = 101;
constexpr uint16_t kNoC3 = 1001;
/// Ids from here on need an x2APIC entry: 255 is the broadcast address. [ACPI-6.4 5.2.12.12]
constexpr uint32_t kFirstX2ApicId = 255;

template <size_t N>
constexpr std::array<char, N> padded(std::string_view text) {
  std::array<char, N> result;
  result.fill(' ');
  std::ranges::copy(text, result.begin());
  return result;
}

TableHeader header_of(std::string_view signature, uint8_t revision) {
  return {.signature = padded<4>(signature),
          .length{},
          .revision = revision,
          .oem_id = padded<6>("RHEA"),
          .oem_table_id = padded<8>("RHEAPC"),
          .oem_revision = 1u,
          .creator_id = padded<4>("RHEA"),
          .creator_revision = 1u};
}

/// The byte that makes the sum of `bytes`, in which it is 0 so far, 0 modulo 256.
uint8_t checksum_of(std::span<const std::byte> bytes) {
  return static_cast<uint8_t>(-std::accumulate(
      bytes.begin(), bytes.end(), 0u,
      [](unsigned sum, std::byte b) { return sum + std::to_integer<unsigned>(b); }));
}

template <memory::GuestPod T>
void append(std::vector<std::byte>& bytes, const T& value) {
  const auto view = std::as_bytes(std::span(&value, 1));
  bytes.insert(bytes.end(), view.begin(), view.end());
}

/// Completes a table: length and checksum of its header.
std::vector<std::byte> sealed(std::vector<std::byte> table) {
  TableHeader header;
  std::memcpy(static_cast<void*>(&header), table.data(), sizeof header);
  header.length = static_cast<uint32_t>(table.size());
  header.checksum = 0;
  std::memcpy(table.data(), &header, sizeof header);
  header.checksum = checksum_of(table);
  std::memcpy(table.data(), &header, sizeof header);
  return table;
}

template <memory::GuestPod T>
std::vector<std::byte> sealed(const T& table) {
  std::vector<std::byte> bytes;
  append(bytes, table);
  return sealed(std::move(bytes));
}

/// Collects the tables behind the RSDP, whose place is at the beginning.
class Area {
 public:
  Area() : out_{pc::kAcpiTables, std::vector<std::byte>(sizeof(Rsdp)), {}} {}

  GuestAddr add(std::string_view signature, std::span<const std::byte> table) {
    const size_t offset =
        (out_.bytes.size() + kTableAlignment - 1) / kTableAlignment * kTableAlignment;
    out_.bytes.resize(offset);
    out_.bytes.insert(out_.bytes.end(), table.begin(), table.end());
    const GuestAddr address = out_.base + offset;
    out_.tables.push_back({std::string(signature), address, table.size()});
    return address;
  }

  AcpiTables finish(const Rsdp& rsdp) && {
    std::memcpy(out_.bytes.data(), &rsdp, sizeof rsdp);
    return std::move(out_);
  }

 private:
  AcpiTables out_;
};

GenericAddress io_register(uint16_t port, uint8_t length) {
  return {.space = GenericAddress::kIo,
          .bit_width = static_cast<uint8_t>(length * 8),
          .address = uint64_t{port}};
}

/// The register blocks, in the old fields and in the new.
void describe_registers(Fadt& fadt) {
  fadt.pm1_event_length = 4;
  fadt.pm1_control_length = 2;
  fadt.pm_timer_length = 4;
  fadt.gpe0_length = pc::kGpeLength;
  fadt.pm1a_event = pc::kPmEventPort;
  fadt.pm1a_control = pc::kPmControlPort;
  fadt.pm_timer = pc::kPmTimerPort;
  fadt.gpe0 = pc::kGpePort;
  fadt.x_pm1a_event = io_register(pc::kPmEventPort, fadt.pm1_event_length);
  fadt.x_pm1a_control = io_register(pc::kPmControlPort, fadt.pm1_control_length);
  fadt.x_pm_timer = io_register(pc::kPmTimerPort, fadt.pm_timer_length);
  fadt.x_gpe0 = io_register(pc::kGpePort, fadt.gpe0_length);
  fadt.reset_register = io_register(pc::kResetPort, 1);
  fadt.reset_register.access_size = 1;
  fadt.reset_value = pc::kResetValue;
}

Fadt make_fadt(GuestAddr facs, GuestAddr dsdt) {
  Fadt fadt;
  fadt.header = header_of("FACP", kFadtRevision);
  fadt.minor_version = kFadtMinorRevision;
  fadt.firmware_control = static_cast<uint32_t>(facs.value);
  fadt.dsdt = static_cast<uint32_t>(dsdt.value);
  fadt.x_dsdt = dsdt.value;
  fadt.sci_interrupt = uint16_t{pc::kSciGsi};
  describe_registers(fadt);
  fadt.c2_latency = kNoC2;
  fadt.c3_latency = kNoC3;
  fadt.century = pc::kRtcCenturyIndex;
  fadt.boot_architecture = kFadtBootLegacyDevices | kFadtBoot8042 | kFadtBootNoVga;
  fadt.flags = kFadtWbinvd | kFadtC1 | kFadtNoFixedSleepButton | kFadtNoFixedRtcWake |
               kFadtResetRegister | (pc::kPmTimerBits == 32 ? kFadtTimer32Bits : 0u);
  fadt.hypervisor = {'R', 'H', 'E', 'A'};
  return fadt;
}

void append_cpus(std::vector<std::byte>& madt, std::span<const uint32_t> apic_ids) {
  bool has_x2apic = false;
  for (uint32_t uid = 0; uid < apic_ids.size(); ++uid) {
    const uint32_t id = apic_ids[uid];
    if (id < kFirstX2ApicId && uid < kFirstX2ApicId) {
      append(madt, MadtLocalApic{.processor_uid = static_cast<uint8_t>(uid),
                                 .apic_id = static_cast<uint8_t>(id)});
    } else {
      has_x2apic = true;
      append(madt, MadtLocalX2Apic{.reserved{}, .apic_id = id, .processor_uid = uid});
    }
  }
  append(madt, MadtLocalApicNmi{});
  if (has_x2apic) append(madt, MadtLocalX2ApicNmi{});
}

std::vector<std::byte> make_madt(const AcpiConfig& config) {
  std::vector<std::byte> madt;
  append(madt, Madt{.header = header_of("APIC", kMadtRevision),
                    .local_apic = static_cast<uint32_t>(pc::kLocalApic.value),
                    .flags = Madt::kHas8259});
  append_cpus(madt, config.apic_ids);
  append(madt, MadtIoApic{.address = static_cast<uint32_t>(pc::kIoApic.value), .gsi_base = 0u});
  append(madt, MadtOverride{.isa_irq = 0, .gsi = pc::kPitGsi, .flags = MadtOverride::kAsOnIsa});
  append(madt,
         MadtOverride{
             .isa_irq = pc::kSciGsi, .gsi = pc::kSciGsi, .flags = MadtOverride::kLevelActiveHigh});
  return sealed(std::move(madt));
}

Ssdt make_ssdt(const AcpiConfig& config) {
  Ssdt ssdt;
  ssdt.header = header_of("SSDT", kSsdtRevision);
  ssdt.window_base.value = config.layout.pci_window64.value;
  ssdt.window_length.value = config.layout.pci_window64_size;
  ssdt.serial_ports.value = (config.serial_ports[0] ? 1ul : 0) | (config.serial_ports[1] ? 2ul : 0);
  return ssdt;
}

std::vector<std::byte> make_xsdt(std::span<const GuestAddr> tables) {
  std::vector<std::byte> xsdt;
  append(xsdt, header_of("XSDT", kXsdtRevision));
  for (const GuestAddr table : tables) append(xsdt, le64(table.value));
  return sealed(std::move(xsdt));
}

Rsdp make_rsdp(GuestAddr xsdt) {
  constexpr size_t kFirstPart = 20;
  Rsdp rsdp;
  rsdp.oem_id = padded<6>("RHEA");
  rsdp.length = uint32_t{sizeof rsdp};
  rsdp.xsdt_address = xsdt.value;
  const auto bytes = std::as_bytes(std::span(&rsdp, 1));
  rsdp.checksum = checksum_of(bytes.first(kFirstPart));
  rsdp.extended_checksum = checksum_of(bytes);
  return rsdp;
}

}  // namespace

Result<AcpiTables> build_acpi_tables(const AcpiConfig& config) {
  Area area;
  Facs facs_table;
  facs_table.length = uint32_t{sizeof facs_table};
  const GuestAddr facs = area.add("FACS", std::as_bytes(std::span(&facs_table, 1)));
  const GuestAddr dsdt = area.add("DSDT", std::as_bytes(std::span(kDsdtAml)));
  const std::array tables{area.add("FACP", sealed(make_fadt(facs, dsdt))),
                          area.add("APIC", make_madt(config)),
                          area.add("SSDT", sealed(make_ssdt(config)))};
  const GuestAddr xsdt = area.add("XSDT", make_xsdt(tables));
  AcpiTables result = std::move(area).finish(make_rsdp(xsdt));
  if (result.bytes.size() > pc::kAcpiTablesSize) {
    return fail(ErrorKind::kInvalidArgument,
                "the ACPI tables of {} CPUs need {} bytes, {} are kept", config.apic_ids.size(),
                result.bytes.size(), pc::kAcpiTablesSize);
  }
  return result;
}

}  // namespace rhea::vmm
