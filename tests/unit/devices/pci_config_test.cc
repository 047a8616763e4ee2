#include "devices/pci_config.h"

#include <catch2/catch.hpp>
#include <vector>

using namespace rhea::devices;

namespace {

constexpr PciIdentity kIdentity{.vendor = 0x1af4,
                                .device = 0x1042,
                                .revision = 1,
                                .class_code = 0x01'00'02,
                                .subsystem_vendor = 0x1234,
                                .subsystem = 0x5678,
                                .interrupt_pin = 1};
constexpr uint8_t kBar0 = 0x10;

void enable(PciConfig& config, unsigned bits) { config.write(0x04, bits, 2); }

}  // namespace

TEST_CASE("PciConfig: every header byte has its value and its writable bits at every width",
          "[pci][sweep]") {
  struct Row {
    const char* name;
    uint8_t offset;
    unsigned width;
    uint32_t value;
    uint32_t writable;
  };
  const std::vector<Row> rows{
      {"vendor", 0x00, 2, 0x1af4, 0},
      {"device", 0x02, 2, 0x1042, 0},
      {"command", 0x04, 2, 0, 0x0547},
      {"status", 0x06, 2, 0, 0},
      {"revision", 0x08, 1, 1, 0},
      {"class", 0x09, 2, 0x0002, 0},
      {"base class", 0x0b, 1, 0x01, 0},
      {"cache line", 0x0c, 1, 0, 0xff},
      {"latency", 0x0d, 1, 0, 0xff},
      {"header type", 0x0e, 1, 0, 0},
      {"BIST", 0x0f, 1, 0, 0},
      {"absent BAR", 0x10, 4, 0, 0},
      {"CIS", 0x28, 4, 0, 0},
      {"subsystem vendor", 0x2c, 2, 0x1234, 0},
      {"subsystem", 0x2e, 2, 0x5678, 0},
      {"ROM", 0x30, 4, 0, 0},
      {"capabilities", 0x34, 1, 0, 0},
      {"interrupt line", 0x3c, 1, 0, 0xff},
      {"interrupt pin", 0x3d, 1, 1, 0},
      {"grant", 0x3e, 2, 0, 0},
      {"beyond the header", 0x40, 4, 0, 0},
      {"last", 0xfc, 4, 0, 0},
  };
  for (const Row& row : rows) {
    for (const uint32_t stored : {0xffff'ffffU, 0x5555'5555U, 0U}) {
      CAPTURE(row.name, stored);
      const uint32_t mask = row.width == 4 ? 0xffff'ffff : (1U << (8 * row.width)) - 1;
      const uint32_t expected = (row.value & ~row.writable) | (stored & row.writable & mask);
      PciConfig whole(kIdentity);
      CHECK(whole.read(row.offset, row.width) == row.value);
      whole.write(row.offset, stored & mask, row.width);
      CHECK(whole.read(row.offset, row.width) == expected);

      PciConfig bytes(kIdentity);
      for (unsigned i = 0; i < row.width; ++i) {
        bytes.write(static_cast<uint8_t>(row.offset + i), stored >> (8 * i) & 0xff, 1);
        CHECK(bytes.read(static_cast<uint8_t>(row.offset + i), 1) == (expected >> (8 * i) & 0xff));
      }
      whole.reset();
      CHECK(whole.read(row.offset, row.width) == row.value);
    }
  }
}

TEST_CASE("PciConfig: status records are cleared by 1, bit by bit", "[pci]") {
  PciConfig config(kIdentity);
  for (unsigned bit = 0; bit < 16; ++bit)
    config.set_status_bit(static_cast<uint16_t>(1U << bit), true);
  config.write(0x06, 0x0100, 2);
  CHECK(config.read(0x06, 2) == 0xfeff);
  config.write(0x04, 0xffff'0000, 4);
  CHECK(config.read(0x06, 2) == (0xffff & ~0xf900));  // the rest is the function's
}

TEST_CASE("PciConfig: a BAR of each kind shows its size and its type", "[pci][bar][sweep]") {
  struct Row {
    const char* name;
    BarKind kind;
    uint64_t size;
    uint32_t low, high;  // after a store of all-ones
  };
  const std::vector<Row> rows{
      {"smallest I/O", BarKind::kIo, 4, 0xffff'fffd, 0},
      {"I/O", BarKind::kIo, 64, 0xffff'ffc1, 0},
      {"smallest memory", BarKind::kMemory32, 16, 0xffff'fff0, 0},
      {"memory", BarKind::kMemory32, 4096, 0xffff'f000, 0},
      {"largest memory", BarKind::kMemory32, 0x8000'0000, 0x8000'0000, 0},
      {"64-bit", BarKind::kMemory64, 16'384, 0xffff'c004, 0xffff'ffff},
      {"prefetchable", BarKind::kMemory64Prefetchable, 16'384, 0xffff'c00c, 0xffff'ffff},
      {"8 GiB", BarKind::kMemory64, uint64_t{8} << 30, 0x0000'0004, 0xffff'fffe},
  };
  for (const Row& row : rows) {
    PciConfig config(kIdentity);
    config.define_bar(0, row.kind, row.size);
    CAPTURE(row.name);
    config.write(kBar0, 0xffff'ffff, 4);
    config.write(kBar0 + 4, 0xffff'ffff, 4);
    CHECK(config.read(kBar0, 4) == row.low);
    CHECK(config.read(kBar0 + 4, 4) == row.high);
    enable(config, 3);
    CHECK_FALSE(config.bar_address(0).has_value());  // being sized is no address
    config.reset();
    CHECK(config.read(kBar0, 4) == (row.low & 0xf & (row.kind == BarKind::kIo ? 0x3 : 0xf)));
    CHECK(config.read(kBar0 + 4, 4) == 0);
  }
}

TEST_CASE("PciConfig: a BAR decodes only while its space is on and its address is usable",
          "[pci][bar][sweep]") {
  struct Row {
    const char* name;
    BarKind kind;
    uint32_t low, high;
    unsigned command;
    std::optional<uint64_t> address;
  };
  const std::vector<Row> rows{
      // each of 4096 bytes
      {"memory", BarKind::kMemory32, 0xfebf'0000, 0, 2, 0xfebf'0000},
      {"memory, decoding off", BarKind::kMemory32, 0xfebf'0000, 0, 1, {}},
      {"memory, address 0", BarKind::kMemory32, 0, 0, 2, {}},
      {"memory, below the top", BarKind::kMemory32, 0xffff'e000, 0, 2, 0xffff'e000},
      {"memory, at the top", BarKind::kMemory32, 0xffff'f000, 0, 2, {}},
      {"memory, low bits dropped", BarKind::kMemory32, 0xfebf'0fff, 0, 2, 0xfebf'0000},
      {"I/O", BarKind::kIo, 0xc000, 0, 1, 0xc000},
      {"I/O, decoding off", BarKind::kIo, 0xc000, 0, 2, {}},
      {"I/O, beyond 64 KiB", BarKind::kIo, 0x1'0000, 0, 1, {}},
      {"I/O, at the top", BarKind::kIo, 0xf000, 0, 1, {}},
      {"64-bit, low", BarKind::kMemory64, 0xfebf'0000, 0, 2, 0xfebf'0000},
      {"64-bit, high", BarKind::kMemory64, 0x0000'0000, 0x80, 2, uint64_t{0x80} << 32},
      {"64-bit, at the top", BarKind::kMemory64, 0xffff'f000, 0xffff'ffff, 2, {}},
  };
  for (const Row& row : rows) {
    PciConfig config(kIdentity);
    config.define_bar(0, row.kind, 4096);
    CAPTURE(row.name);
    config.write(kBar0, row.low, 4);
    config.write(kBar0 + 4, row.high, 4);
    enable(config, row.command);
    CHECK(config.bar_address(0) == row.address);
  }
}

TEST_CASE("PciConfig: the upper half of a 64-bit BAR is no BAR of its own", "[pci][bar]") {
  PciConfig config(kIdentity);
  config.define_bar(4, BarKind::kMemory64, 4096);
  enable(config, 2);
  config.write(0x24, 1, 4);
  CHECK(config.bar_address(4) == uint64_t{1} << 32);
  CHECK_FALSE(config.bar_address(5).has_value());
  CHECK_FALSE(config.bar_kind(5).has_value());
  CHECK_FALSE(config.bar_address(6).has_value());
}

TEST_CASE("PciConfig: capabilities form a list that a guest can walk and not write",
          "[pci][capability]") {
  PciConfig config(kIdentity);
  CHECK((config.read(0x06, 2) & 0x10) == 0);
  const uint8_t first = config.add_capability(0x11, 12);
  const uint8_t second = config.add_capability(0x09, 17);
  const uint8_t third = config.add_capability(0x05, 10);
  CHECK((config.read(0x06, 2) & 0x10) != 0);
  std::vector<uint32_t> ids;
  for (uint32_t at = config.read(0x34, 1); at != 0;
       at = config.read(static_cast<uint8_t>(at + 1), 1)) {
    CHECK(at % 4 == 0);
    ids.push_back(config.read(static_cast<uint8_t>(at), 1));
  }
  CHECK(ids == std::vector<uint32_t>{0x05, 0x09, 0x11});
  CHECK(first == 0x40);
  CHECK(second == 0x4c);
  CHECK(third == 0x60);  // the next dword after 17 bytes
  config.write(first, 0xffff'ffff, 4);
  CHECK(config.read(first, 4) == 0x0000'0011);
  config.allow_writes(static_cast<uint8_t>(first + 2), 0xc000, 2);
  config.write(first, 0xffff'ffff, 4);
  CHECK(config.read(first, 4) == 0xc000'0011);
}
