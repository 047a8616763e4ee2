// PciConfig: the 256 bytes of a function's configuration space, and who may write which bit.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "util/error.h"

namespace rhea::devices {

/// The common header, type 0. [PCI-3.0 6.1]
enum class PciReg : uint8_t {
  kVendorId = 0x00,
  kDeviceId = 0x02,
  kCommand = 0x04,
  kStatus = 0x06,
  kRevision = 0x08,
  kClass = 0x09,
  kCacheLineSize = 0x0c,
  kLatencyTimer = 0x0d,
  kHeaderType = 0x0e,
  kBar0 = 0x10,
  kSubsystemVendorId = 0x2c,
  kSubsystemId = 0x2e,
  kCapabilities = 0x34,
  kInterruptLine = 0x3c,
  kInterruptPin = 0x3d,
};

/// [PCI-3.0 6.2.2]
enum class PciCommand : uint16_t {
  kIo = 1 << 0,
  kMemory = 1 << 1,
  kBusMaster = 1 << 2,
  kParity = 1 << 6,
  kSystemError = 1 << 8,
  kInterruptDisable = 1 << 10,
};

/// [PCI-3.0 6.2.1, 6.2.4]. INTA is pin 1; 0 means that the function uses none.
struct PciIdentity {
  uint16_t vendor = 0xffff;
  uint16_t device = 0xffff;
  uint8_t revision = 0;
  uint32_t class_code = 0;  ///< 24 bits: class, subclass, interface
  uint16_t subsystem_vendor = 0;
  uint16_t subsystem = 0;
  uint8_t interrupt_pin = 0;
};

enum class BarKind : uint8_t { kIo, kMemory32, kMemory64, kMemory64Prefetchable };

/// Configuration space as data: what each bit holds, whether a store changes it, clears it (by
/// writing 1), or leaves it.
///
/// Thread: BQL. Units: offsets and sizes in bytes.
/// Invariants: an access lies within the 256 bytes; a 64-bit BAR takes two slots.
class PciConfig {
 public:
  static constexpr size_t kBytes = 256;
  static constexpr unsigned kBars = 6;
  static constexpr uint8_t kFirstCapability = 0x40;

  explicit PciConfig(const PciIdentity& identity);

  // The guest's side.
  uint32_t read(uint8_t offset, unsigned size) const;
  void write(uint8_t offset, uint32_t value, unsigned size);
  /// Puts back what was defined: every bit that a store may change.
  void reset();

  // The function's side: what the registers are.
  /// Sets a register and its value after reset.
  void define(uint8_t offset, uint32_t value, unsigned size);
  /// The bits of a register that a store changes.
  void allow_writes(uint8_t offset, uint32_t mask, unsigned size);
  /// The bits that a store of 1 clears.
  void allow_clears(uint8_t offset, uint32_t mask, unsigned size);
  /// `size_bytes` is a power of two: at least 4 for I/O, 16 for memory.
  void define_bar(unsigned index, BarKind kind, uint64_t size_bytes);
  /// Appends a capability with `size_bytes` in all (its two header bytes included) and gives its
  /// offset. [PCI-3.0 6.7]
  uint8_t add_capability(uint8_t id, uint8_t size_bytes);

  // What the registers say now.
  bool command(PciCommand bit) const;
  /// Sets a bit that the function itself drives (interrupt status).
  void set_status_bit(uint16_t bit, bool on);
  /// Where BAR `index` is to be mapped; empty while its decoding is off, while it holds no usable
  /// address (0, or a range that leaves its space, as while it is being sized), or if there is
  /// no such BAR.
  std::optional<uint64_t> bar_address(unsigned index) const;
  std::optional<BarKind> bar_kind(unsigned index) const;

  // Migration.
  using Bytes = std::array<uint8_t, kBytes>;
  const Bytes& bytes() const noexcept { return value_; }
  /// Whether a guest and its function could have come to these bytes: they differ from ours where
  /// a store can change them or the interrupt status stands, and nowhere else.
  /// Errors: kCorrupt, naming the first byte.
  Result<void> check(const Bytes& bytes) const;
  void set_bytes(const Bytes& bytes) noexcept { value_ = bytes; }

  static constexpr uint16_t kStatusInterrupt = 1 << 3;  ///< [PCI-3.0 6.2.3]

 private:
  struct Bar {
    BarKind kind;
    uint64_t size_bytes;
  };
  Bytes value_{};
  Bytes reset_{};
  Bytes writable_{};
  Bytes clearable_{};
  std::array<std::optional<Bar>, kBars> bars_{};
  unsigned next_capability_ = kFirstCapability;
};

}  // namespace rhea::devices
