// Msix: a function's MSI-X capability, its vector table and its pending bits. [PCI-3.0 6.8.2]
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "devices/guest_error.h"
#include "devices/msi.h"
#include "devices/pci_config.h"
#include "memory/io_handler.h"
#include "memory/region.h"
#include "util/bql.h"
#include "util/error.h"

namespace rhea::devices {

struct MsixState {
  static constexpr size_t kMaxVectors = 2048;
  struct Entry {
    uint64_t address = 0;
    uint32_t data = 0;
    bool masked = true;
    bool pending = false;  // signalled while it could not be delivered
    template <class Visitor, class Self>
    static void describe(Visitor& v, Self& s) {
      v.field("address", s.address);
      v.field("data", s.data);
      v.field("masked", s.masked);
      v.field("pending", s.pending);
    }
  };
  std::vector<Entry> entries;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("entries", s.entries, kMaxVectors);
  }
};

/// The vectors of one function.
///
/// A vector is connected while MSI-X is on, the function is not masked and the vector is not: from
/// then on the host delivers its signals by itself. Otherwise they wait, and show as its pending
/// bit.
///
/// Thread: BQL; a vector's signal() from any.
/// Owns: vectors and the region of table and pending bits, which goes into a BAR of its own.
/// Invariants: after reset every vector is masked and MSI-X is off.
class Msix final : public memory::IoHandler {
 public:
  static constexpr uint8_t kCapabilityId = 0x11;
  static constexpr unsigned kMaxVectors = MsixState::kMaxVectors;
  static constexpr memory::IoAccess kAccess{
      .min_size = 4, .max_size = 8, .impl_min = 4, .impl_max = 4, .unaligned = false};

  Msix(unsigned vectors, GuestErrors& errors);

  /// Asks the host for the vectors. Errors: it has no more descriptors.
  Result<void> realize(MsiRouter& router) REQUIRES(bql);
  void unrealize() REQUIRES(bql);
  /// Adds the capability; the table is in BAR `bar`.
  void define(PciConfig& config, unsigned bar);
  memory::MemoryRegion& region() noexcept { return region_; }

  unsigned vectors() const noexcept { return static_cast<unsigned>(entries_.size()); }
  /// Any thread, once realized; null for a number that is no vector.
  MsiVector* vector(unsigned index) const noexcept {
    return index < entries_.size() ? entries_[index].vector.get() : nullptr;
  }
  bool enabled() const REQUIRES(bql) { return enabled_; }

  /// After a store to the configuration space.
  void config_written(const PciConfig& config) REQUIRES(bql);
  void reset() REQUIRES(bql);

  // Migration. Whether it is on and masked stands in the function's configuration space.
  MsixState state() REQUIRES(bql);
  Result<void> check_state(const MsixState& state) const REQUIRES(bql);
  /// `config` holds its new bytes already. What was pending and is not masked is delivered.
  void set_state(const MsixState& state, const PciConfig& config) REQUIRES(bql);

  uint64_t io_read(uint64_t offset, unsigned size) override;
  void io_write(uint64_t offset, uint64_t value, unsigned size) override;

 private:
  struct Entry {
    uint32_t address_low = 0, address_high = 0, data = 0, control = 1;
    std::unique_ptr<MsiVector> vector;
    bool connected = false;
  };
  uint32_t read_table(uint64_t offset) const REQUIRES(bql);
  uint32_t read_pending(uint64_t offset) REQUIRES(bql);
  static bool is_pending(Entry& entry) REQUIRES(bql);
  void update(Entry& entry) REQUIRES(bql);

  GuestErrors& errors_;
  const uint64_t pending_offset_;
  memory::MemoryRegion region_;
  std::vector<Entry> entries_;  // the contents change under the BQL, the vectors do not change
  uint8_t capability_ = 0;
  bool enabled_ GUARDED_BY(bql) = false;
  bool masked_ GUARDED_BY(bql) = false;
};

}  // namespace rhea::devices
