// PciDevice: a function on a PCI bus.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "devices/device.h"
#include "devices/pci_config.h"

namespace rhea::devices {

class PciBus;

/// What every function's saved form contains.
struct PciDeviceState {
  std::array<uint8_t, PciConfig::kBytes> config{};
  bool intx = false;  // the function asks for its interrupt
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("config", s.config);
    v.field("intx", s.intx);
  }
};

/// A function with its configuration space; the base of every PCI device. One function a slot.
///
/// Its BARs' regions are mapped into the bus's windows as the guest's stores to the command
/// register and the BARs say; a store that changes several mappings changes them at once.
///
/// Thread: BQL. Invariants: mapped only while it sits on a bus.
class PciDevice : public Device {
 public:
  ~PciDevice() override;

  /// An access by the guest, within the 256 bytes. size: 1, 2 or 4, aligned.
  uint32_t config_read(uint8_t offset, unsigned size) REQUIRES(bql);
  void config_write(uint8_t offset, uint32_t value, unsigned size) REQUIRES(bql);

  /// Resets the configuration space (so it is unmapped), lowers INTx, and resets the function.
  void reset() final REQUIRES(bql);

  // Leaving a machine that runs, for a device that may have something under way: that ends first,
  // and nobody waits for it. Main, service context.
  /// Begins nothing new. From then on `look` is called, on main, whenever idle() may have become
  /// true.
  virtual void prepare_to_leave(std::function<void()> look) REQUIRES(bql) { look(); }
  /// Whether nothing is under way.
  virtual bool idle() const REQUIRES(bql) { return true; }
  /// Makes ready for an unrealize() that does not wait. Once idle(). Errors: it was not so.
  virtual Result<void> leave() REQUIRES(bql) { return ok(); }
  /// After prepare_to_leave(), and unless leave() went well: it stays, and goes on.
  virtual void stay() REQUIRES(bql) {}

  PciBus* bus() const REQUIRES(bql) { return bus_; }
  unsigned slot() const REQUIRES(bql) { return slot_; }
  uint8_t interrupt_pin() const REQUIRES(bql);

  /// A register of the common header, for whoever lists devices: nothing happens by it.
  uint32_t config_value(PciReg reg, unsigned size) const REQUIRES(bql) {
    return config_.read(static_cast<uint8_t>(reg), size);
  }
  struct BarView {
    unsigned index;
    BarKind kind;
    uint64_t size_bytes;
    std::optional<uint64_t> mapped_at;  ///< none: the guest does not see it
  };
  /// Those that it has.
  std::vector<BarView> bars() const REQUIRES(bql);

 protected:
  PciDevice(std::string id, const PciIdentity& identity)
      : Device(std::move(id)), config_(identity) {}

  PciConfig& config() REQUIRES(bql) { return config_; }
  /// Makes `region` what BAR `index` shows; its size is the BAR's. The device owns the region (call
  /// own() in do_realize()). From the constructor or do_realize().
  void add_bar(unsigned index, BarKind kind, memory::MemoryRegion& region);
  /// Drives the interrupt pin. The command register's disable bit holds it back.
  void set_intx(bool level) REQUIRES(bql);

  // Migration, for the function's own saved form. The BARs' regions follow the bytes at once; a
  // function that looks at what it has been written looks at the bytes itself.
  PciDeviceState pci_state() const REQUIRES(bql) { return {config_.bytes(), intx_level_}; }
  Result<void> check_pci_state(const PciDeviceState& state) const REQUIRES(bql);
  void set_pci_state(const PciDeviceState& state) REQUIRES(bql);

  /// The function's own reset.
  virtual void reset_function() REQUIRES(bql) {}
  /// Before a load from the configuration space, for capabilities that fetch what it reads.
  virtual void config_reading(uint8_t /*offset*/, unsigned /*size*/) REQUIRES(bql) {}
  /// After a store to the configuration space, for capabilities that act on it.
  virtual void config_written(uint8_t /*offset*/, unsigned /*size*/) REQUIRES(bql) {}

 private:
  friend class PciBus;
  struct Bar {
    memory::MemoryRegion* region = nullptr;
    std::optional<uint64_t> mapped_at;
  };
  void attach(PciBus& bus, unsigned slot) REQUIRES(bql);
  void detach() REQUIRES(bql);
  void update_mappings() REQUIRES(bql);
  void map_bar(unsigned index, std::optional<uint64_t> address) REQUIRES(bql);
  void update_intx() REQUIRES(bql);

  PciConfig config_;  // changes under the BQL; the constructor defines it
  std::array<Bar, PciConfig::kBars> bars_{};
  PciBus* bus_ = nullptr;
  unsigned slot_ = 0;
  bool intx_level_ = false;   // what the function asks for
  bool intx_driven_ = false;  // what the bus was told
};

}  // namespace rhea::devices
