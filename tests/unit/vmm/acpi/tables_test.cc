#include "vmm/acpi/tables.h"

#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <span>
#include <string>

#include "vmm/pc_layout.h"

using namespace rhea;
using namespace rhea::vmm;

namespace {

using Bytes = std::vector<std::byte>;

constexpr uint64_t kGiB = uint64_t{1} << 30;

AcpiConfig config_of(uint32_t cpus, uint64_t ram_bytes = 256 << 20) {
  AcpiConfig config{.layout = MUST(MemoryLayout::create(ram_bytes, 46)), .apic_ids{}};
  config.apic_ids.resize(cpus);
  std::iota(config.apic_ids.begin(), config.apic_ids.end(), 0u);
  config.serial_ports = {true, false};
  return config;
}

unsigned sum(std::span<const std::byte> bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), 0u, [](unsigned total, std::byte b) {
    return (total + std::to_integer<unsigned>(b)) & 0xff;
  });
}

template <class T>
T at(std::span<const std::byte> bytes, size_t offset) {
  REQUIRE(offset + sizeof(T) <= bytes.size());
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

std::string text_at(std::span<const std::byte> bytes, size_t offset, size_t size) {
  std::string text(size, '\0');
  std::memcpy(text.data(), bytes.subspan(offset, size).data(), size);
  return text;
}

/// The tables as a guest finds them: from the RSDP by addresses, not by what the builder says.
class Guest {
 public:
  explicit Guest(const AcpiTables& tables) : tables_(tables) {
    const Bytes xsdt = table_at(at<uint64_t>(tables.bytes, 24));
    signatures_.push_back(text_at(xsdt, 0, 4));
    for (size_t entry = 36; entry < xsdt.size(); entry += 8) {
      const Bytes table = table_at(at<uint64_t>(xsdt, entry));
      signatures_.push_back(text_at(table, 0, 4));
      found_[signatures_.back()] = table;
    }
  }
  Bytes table_at(uint64_t address) const {
    const auto tail = std::span(tables_.bytes).subspan(address - tables_.base.value);
    const auto table = tail.first(at<uint32_t>(tail, 4));
    return {table.begin(), table.end()};
  }
  const Bytes& operator[](const std::string& signature) const { return found_.at(signature); }
  const std::vector<std::string>& signatures() const { return signatures_; }

 private:
  const AcpiTables& tables_;
  std::map<std::string, Bytes> found_;
  std::vector<std::string> signatures_;
};

bool contains(std::span<const std::byte> bytes, std::span<const uint8_t> wanted) {
  return !std::ranges::search(bytes, std::as_bytes(wanted)).empty();
}

/// AML of the _PRT row for a pin: Package () { slot << 16 | 0xffff, pin, 0, gsi }.
std::vector<uint8_t> prt_row(unsigned slot, unsigned pin, unsigned gsi) {
  std::vector<uint8_t> body{4};
  const auto integer = [&body](uint32_t value) {
    if (value > 1 && value <= 0xff) body.push_back(0x0a);
    if (value <= 0xff) return body.push_back(static_cast<uint8_t>(value));
    const bool wide = value > 0xffff;
    body.push_back(wide ? 0x0c : 0x0b);
    for (unsigned i = 0; i < (wide ? 4 : 2); ++i) {
      body.push_back(static_cast<uint8_t>(value >> (8 * i)));
    }
  };
  integer(slot << 16 | 0xffff);
  integer(pin);
  integer(0);
  integer(gsi);
  std::vector<uint8_t> row{0x12, static_cast<uint8_t>(body.size() + 1)};
  row.insert(row.end(), body.begin(), body.end());
  return row;
}

}  // namespace

TEST_CASE("ACPI: the RSDP is where a scan finds it and both its checksums hold", "[acpi]") {
  const AcpiTables tables = MUST(build_acpi_tables(config_of(1)));
  CHECK(tables.base.value == 0xe0000);
  CHECK(text_at(tables.bytes, 0, 8) == "RSD PTR ");
  CHECK(at<uint8_t>(tables.bytes, 15) == 2);
  CHECK(at<uint32_t>(tables.bytes, 20) == 36);
  CHECK(sum(std::span(tables.bytes).first(20)) == 0);
  CHECK(sum(std::span(tables.bytes).first(36)) == 0);
}

TEST_CASE("ACPI: every table is reached from the RSDP and its bytes add up to 0", "[acpi]") {
  const AcpiTables tables = MUST(build_acpi_tables(config_of(4)));
  const Guest guest(tables);
  CHECK(guest.signatures() == std::vector<std::string>{"XSDT", "FACP", "APIC", "SSDT"});
  for (const auto& name : {"FACP", "APIC", "SSDT"}) CHECK(sum(guest[name]) == 0);
  const Bytes dsdt = guest.table_at(at<uint64_t>(guest["FACP"], 140));
  CHECK(text_at(dsdt, 0, 4) == "DSDT");
  CHECK(sum(dsdt) == 0);
  const auto facs = at<uint32_t>(guest["FACP"], 36);
  CHECK(facs % 64 == 0);
  CHECK(text_at(guest.table_at(facs), 0, 4) == "FACS");
}

TEST_CASE("ACPI: the FADT describes the machine's registers", "[acpi]") {
  const AcpiTables tables = MUST(build_acpi_tables(config_of(1)));
  const Guest guest(tables);
  const Bytes& fadt = guest["FACP"];
  CHECK(fadt.size() == 276);
  CHECK(at<uint32_t>(fadt, 40) == at<uint64_t>(fadt, 140));  // DSDT
  CHECK(at<uint16_t>(fadt, 46) == 9);                        // SCI
  CHECK(at<uint32_t>(fadt, 48) == 0);                        // no SMI_CMD
  CHECK(at<uint32_t>(fadt, 56) == 0x600);
  CHECK(at<uint32_t>(fadt, 64) == 0x604);
  CHECK(at<uint32_t>(fadt, 76) == 0x608);
  CHECK(at<uint32_t>(fadt, 80) == 0xafe0);
  CHECK(at<uint8_t>(fadt, 88) == 4);
  CHECK(at<uint8_t>(fadt, 89) == 2);
  CHECK(at<uint8_t>(fadt, 91) == 4);
  CHECK(at<uint8_t>(fadt, 92) == 4);
  CHECK(at<uint8_t>(fadt, 108) == 0x32);  // century
  CHECK(at<uint16_t>(fadt, 109) == 0x7);  // legacy devices, 8042, no VGA
  const auto flags = at<uint32_t>(fadt, 112);
  CHECK((flags & (1u << 4)) == 0);   // the power button is fixed hardware
  CHECK((flags & (1u << 5)) != 0);   // there is no sleep button
  CHECK((flags & (1u << 8)) == 0);   // the timer has 24 bits
  CHECK((flags & (1u << 10)) != 0);  // reset register
  CHECK((flags & (1u << 20)) == 0);  // not hardware-reduced
  CHECK(at<uint64_t>(fadt, 120) == 0xcf9);
  CHECK(at<uint8_t>(fadt, 128) == 0x06);
  CHECK(at<uint64_t>(fadt, 132) == 0);  // X_FIRMWARE_CTRL: the other one is used
  CHECK(at<uint64_t>(fadt, 152) == 0x600);
  CHECK(at<uint64_t>(fadt, 176) == 0x604);
  CHECK(at<uint64_t>(fadt, 212) == 0x608);
  CHECK(at<uint64_t>(fadt, 224) == 0xafe0);
}

TEST_CASE("ACPI: the MADT lists the CPUs that are present and the interrupt wiring", "[acpi]") {
  const AcpiTables tables = MUST(build_acpi_tables(config_of(2)));
  const Guest guest(tables);
  const Bytes& madt = guest["APIC"];
  CHECK(at<uint32_t>(madt, 36) == 0xfee00000);
  CHECK(at<uint32_t>(madt, 40) == 1);
  const std::vector<uint8_t> expected{
      0, 8,  0,    0, 1, 0, 0,    0,                    // CPU 0
      0, 8,  1,    1, 1, 0, 0,    0,                    // CPU 1
      4, 6,  0xff, 0, 0, 1,                             // NMI on LINT1 of all
      1, 12, 0,    0, 0, 0, 0xc0, 0xfe, 0,    0, 0, 0,  // IOAPIC, GSI 0
      2, 10, 0,    0, 2, 0, 0,    0,    0,    0,        // PIT: GSI 2
      2, 10, 0,    9, 9, 0, 0,    0,    0x0d, 0,        // SCI: level, active high
  };
  CHECK(Bytes(madt.begin() + 44, madt.end()) == Bytes(std::as_bytes(std::span(expected)).begin(),
                                                      std::as_bytes(std::span(expected)).end()));
}

TEST_CASE("ACPI: APIC ids from 255 on are x2APIC entries", "[acpi]") {
  AcpiConfig config = config_of(1);
  config.apic_ids = {0, 254, 255, 300};
  const AcpiTables tables = MUST(build_acpi_tables(config));
  const Guest guest(tables);
  const std::vector<uint8_t> expected{
      0,   8,  0,    0,   1,    0,    0,    0,                             //
      0,   8,  1,    254, 1,    0,    0,    0,                             //
      9,   16, 0,    0,   0xff, 0,    0,    0,    1, 0, 0, 0, 2, 0, 0, 0,  //
      9,   16, 0,    0,   0x2c, 1,    0,    0,    1, 0, 0, 0, 3, 0, 0, 0,  //
      4,   6,  0xff, 0,   0,    1,                                         //
      0xa, 12, 0,    0,   0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0,
  };
  CHECK(contains(guest["APIC"], expected));
}

TEST_CASE("ACPI: as many CPUs as KVM has fit, too many are an error", "[acpi]") {
  CHECK(build_acpi_tables(config_of(4096)).has_value());
  const auto tables = build_acpi_tables(config_of(10'000));
  REQUIRE_FALSE(tables.has_value());
  CHECK_THAT(tables.error().message(), Catch::StartsWith("the ACPI tables of 10000 CPUs need "));
}

TEST_CASE("ACPI: _PRT is the swizzle of the machine's layout, for every slot and pin", "[acpi]") {
  const AcpiTables tables = MUST(build_acpi_tables(config_of(1)));
  const Guest guest(tables);
  const Bytes dsdt = guest.table_at(at<uint64_t>(guest["FACP"], 140));
  for (unsigned slot = 0; slot < 32; ++slot) {
    for (unsigned pin = 0; pin < 4; ++pin) {
      REQUIRE(contains(dsdt, prt_row(slot, pin, pc::intx_gsi(slot, pin))));
    }
  }
}

TEST_CASE("ACPI: the SSDT carries the PCI window above RAM and the serial ports", "[acpi]") {
  AcpiConfig config = config_of(1, 8 * kGiB);
  config.serial_ports = {true, true};
  const AcpiTables tables = MUST(build_acpi_tables(config));
  const Guest guest(tables);
  const Bytes& ssdt = guest["SSDT"];
  CHECK(text_at(ssdt, 38, 4) == "M64B");
  CHECK(at<uint64_t>(ssdt, 43) == 9 * kGiB);
  CHECK(text_at(ssdt, 53, 4) == "M64L");
  CHECK(at<uint64_t>(ssdt, 58) == 64 * kGiB);
  CHECK(text_at(ssdt, 68, 4) == "SERP");
  CHECK(at<uint64_t>(ssdt, 73) == 3);
}

TEST_CASE("ACPI: iasl reads every table back and compiles what it read", "[acpi]") {
  std::string name = "/tmp/rhea-acpi-XXXXXX";
  REQUIRE(::mkdtemp(name.data()) != nullptr);
  const std::filesystem::path dir = name;
  const AcpiTables tables = MUST(build_acpi_tables(config_of(300, 8 * kGiB)));
  for (const AcpiTable& table : tables.tables) {
    const auto bytes =
        std::span(tables.bytes).subspan(table.address.value - tables.base.value, table.size_bytes);
    std::ofstream(dir / (table.signature + ".dat"), std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  }
  const auto run = [&](const std::string& command) {
    const std::string line = "cd " + name + " && " + command + " >log 2>&1";
    INFO(line);
    CHECK(std::system(line.c_str()) == 0);  // NOLINT(concurrency-mt-unsafe): one thread
    std::ifstream log(dir / "log");
    const std::string text(std::istreambuf_iterator<char>(log), {});
    CHECK_THAT(text, !Catch::Contains("Warning") || Catch::Contains("0 Warnings"));
    CHECK_THAT(text, !Catch::Contains("Incorrect checksum") && !Catch::Contains("unknown"));
  };
  for (const AcpiTable& table : tables.tables) {
    const std::string externals = table.signature == "DSDT" ? "-e SSDT.dat " : "";
    run("iasl " + externals + "-d " + table.signature + ".dat");
    run("iasl -we " + table.signature + ".dsl");
  }
  std::filesystem::remove_all(dir);
}
