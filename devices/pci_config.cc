#include "devices/pci_config.h"

#include <bit>
#include <utility>

#include "util/check.h"

namespace rhea::devices {
namespace {

constexpr uint8_t at(PciReg reg) { return std::to_underlying(reg); }
constexpr uint8_t bar_offset(unsigned index) {
  return static_cast<uint8_t>(at(PciReg::kBar0) + 4 * index);
}

constexpr uint16_t kCommandBits =
    std::to_underlying(PciCommand::kIo) | std::to_underlying(PciCommand::kMemory) |
    std::to_underlying(PciCommand::kBusMaster) | std::to_underlying(PciCommand::kParity) |
    std::to_underlying(PciCommand::kSystemError) |
    std::to_underlying(PciCommand::kInterruptDisable);
// Parity and abort records. [PCI-3.0 6.2.3]
constexpr uint16_t kStatusClearable = 0xf900;
constexpr uint8_t kStatusCapabilities = 1 << 4;

// The low bits of a BAR say what it is. [PCI-3.0 6.2.5.1]
constexpr uint32_t kBarIo = 0x1;
constexpr uint32_t kBarMemory64 = 0x4;
constexpr uint32_t kBarPrefetchable = 0x8;
constexpr uint64_t kIoTypeMask = 0x3;
constexpr uint64_t kMemoryTypeMask = 0xf;
constexpr uint64_t kIoSpaceEnd = 0x1'0000;
constexpr uint64_t kMemory32End = 0x1'0000'0000;

constexpr bool is_64_bit(BarKind kind) {
  return kind == BarKind::kMemory64 || kind == BarKind::kMemory64Prefetchable;
}

constexpr uint32_t type_bits(BarKind kind) {
  switch (kind) {
    case BarKind::kIo:
      return kBarIo;
    case BarKind::kMemory32:
      return 0;
    case BarKind::kMemory64:
      return kBarMemory64;
    case BarKind::kMemory64Prefetchable:
      return kBarMemory64 | kBarPrefetchable;
  }
  std::unreachable();
}

void store(std::array<uint8_t, PciConfig::kBytes>& bytes, uint8_t offset, uint32_t value,
           unsigned size) {
  RHEA_CHECK(offset + size <= PciConfig::kBytes && size <= 4);
  for (unsigned i = 0; i < size; ++i) bytes[offset + i] = static_cast<uint8_t>(value >> (8 * i));
}

}  // namespace

PciConfig::PciConfig(const PciIdentity& identity) {
  define(at(PciReg::kVendorId), identity.vendor, 2);
  define(at(PciReg::kDeviceId), identity.device, 2);
  define(at(PciReg::kRevision), identity.revision, 1);
  define(at(PciReg::kClass), identity.class_code, 3);
  define(at(PciReg::kSubsystemVendorId), identity.subsystem_vendor, 2);
  define(at(PciReg::kSubsystemId), identity.subsystem, 2);
  define(at(PciReg::kInterruptPin), identity.interrupt_pin, 1);
  allow_writes(at(PciReg::kCommand), kCommandBits, 2);
  allow_clears(at(PciReg::kStatus), kStatusClearable, 2);
  allow_writes(at(PciReg::kCacheLineSize), 0xff, 1);
  allow_writes(at(PciReg::kLatencyTimer), 0xff, 1);
  allow_writes(at(PciReg::kInterruptLine), 0xff, 1);
}

uint32_t PciConfig::read(uint8_t offset, unsigned size) const {
  RHEA_CHECK(offset + size <= kBytes && size <= 4);
  uint32_t value = 0;
  for (unsigned i = 0; i < size; ++i) value |= uint32_t{value_[offset + i]} << (8 * i);
  return value;
}

void PciConfig::write(uint8_t offset, uint32_t value, unsigned size) {
  RHEA_CHECK(offset + size <= kBytes && size <= 4);
  for (unsigned i = 0; i < size; ++i) {
    const auto byte = static_cast<uint8_t>(value >> (8 * i));
    const uint8_t writable = writable_[offset + i];
    uint8_t& now = value_[offset + i];
    now = static_cast<uint8_t>((now & ~writable) | (byte & writable));
    now = static_cast<uint8_t>(now & ~(byte & clearable_[offset + i]));
  }
}

void PciConfig::reset() {
  for (size_t i = 0; i < kBytes; ++i) {
    const auto variable = static_cast<uint8_t>(writable_[i] | clearable_[i]);
    value_[i] = static_cast<uint8_t>((value_[i] & ~variable) | (reset_[i] & variable));
  }
}

void PciConfig::define(uint8_t offset, uint32_t value, unsigned size) {
  store(value_, offset, value, size);
  store(reset_, offset, value, size);
}

void PciConfig::allow_writes(uint8_t offset, uint32_t mask, unsigned size) {
  store(writable_, offset, mask, size);
}

void PciConfig::allow_clears(uint8_t offset, uint32_t mask, unsigned size) {
  store(clearable_, offset, mask, size);
}

void PciConfig::define_bar(unsigned index, BarKind kind, uint64_t size_bytes) {
  const unsigned slots = is_64_bit(kind) ? 2 : 1;
  RHEA_CHECK(index + slots <= kBars && !bars_[index]);
  RHEA_CHECK(std::has_single_bit(size_bytes) && size_bytes >= (kind == BarKind::kIo ? 4U : 16U));
  RHEA_CHECK(size_bytes <= (kind == BarKind::kIo ? kIoSpaceEnd
                            : is_64_bit(kind)    ? uint64_t{1} << 63
                                                 : kMemory32End / 2));
  bars_[index] = Bar{.kind = kind, .size_bytes = size_bytes};
  const uint64_t address_bits = ~(size_bytes - 1);
  define(bar_offset(index), type_bits(kind), 4);
  allow_writes(bar_offset(index), static_cast<uint32_t>(address_bits), 4);
  if (slots == 2) {
    allow_writes(bar_offset(index + 1), static_cast<uint32_t>(address_bits >> 32), 4);
  }
}

uint8_t PciConfig::add_capability(uint8_t id, uint8_t size_bytes) {
  const unsigned offset = next_capability_;
  RHEA_CHECK(size_bytes >= 2 && offset + size_bytes <= kBytes);
  next_capability_ = (offset + size_bytes + 3U) & ~3U;
  define(static_cast<uint8_t>(offset), id, 1);
  define(static_cast<uint8_t>(offset + 1), read(at(PciReg::kCapabilities), 1), 1);
  define(at(PciReg::kCapabilities), offset, 1);
  define(at(PciReg::kStatus), read(at(PciReg::kStatus), 1) | kStatusCapabilities, 1);
  return static_cast<uint8_t>(offset);
}

bool PciConfig::command(PciCommand bit) const {
  return (read(at(PciReg::kCommand), 2) & std::to_underlying(bit)) != 0;
}

void PciConfig::set_status_bit(uint16_t bit, bool on) {
  const uint32_t status = read(at(PciReg::kStatus), 2);
  store(value_, at(PciReg::kStatus), on ? status | bit : status & ~uint32_t{bit}, 2);
}

std::optional<BarKind> PciConfig::bar_kind(unsigned index) const {
  return index < kBars && bars_[index] ? std::optional(bars_[index]->kind) : std::nullopt;
}

std::optional<uint64_t> PciConfig::bar_address(unsigned index) const {
  if (index >= kBars || !bars_[index]) return std::nullopt;
  const auto [kind, size] = *bars_[index];
  const bool io = kind == BarKind::kIo;
  if (!command(io ? PciCommand::kIo : PciCommand::kMemory)) return std::nullopt;

  uint64_t address = read(bar_offset(index), 4) & ~(io ? kIoTypeMask : kMemoryTypeMask);
  if (is_64_bit(kind)) address |= uint64_t{read(bar_offset(index + 1), 4)} << 32;
  const uint64_t last = address + (size - 1);  // size-aligned, so this can not wrap
  const uint64_t space_last = io                ? kIoSpaceEnd - 1
                              : is_64_bit(kind) ? ~uint64_t{0}
                                                : kMemory32End - 1;
  // The top of the space is what a BAR shows while it is sized with its decoding left on.
  if (address == 0 || last >= space_last) return std::nullopt;
  return address;
}

Result<void> PciConfig::check(const Bytes& bytes) const {
  for (size_t i = 0; i < kBytes; ++i) {
    auto variable = static_cast<uint8_t>(writable_[i] | clearable_[i]);
    if (i == at(PciReg::kStatus)) variable |= static_cast<uint8_t>(kStatusInterrupt);
    if (((bytes[i] ^ value_[i]) & ~variable) == 0) continue;
    return fail(ErrorKind::kCorrupt, "byte {:#04x} is {:#04x}, ours is {:#04x}", i, bytes[i],
                value_[i]);
  }
  return ok();
}

}  // namespace rhea::devices
