// PciHost: the host bridge, with the configuration ports 0xcf8 and 0xcfc.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "devices/irq.h"
#include "devices/pci_bus.h"
#include "devices/saved_device.h"
#include "memory/io_handler.h"

namespace rhea::devices {

struct PciHostState {
  static constexpr std::string_view kKind = "pci-host";
  static constexpr uint32_t kVersion = 1;
  uint32_t address = 0;
  PciDeviceState bridge;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("address", s.address);
    v.field("bridge", s.bridge);
  }
};

/// Configuration mechanism #1 [PCI-3.0 3.2.2.3.2], the bus "pci.0" behind it, and the bridge's own
/// function (an Intel 440FX, 8086:1237) in slot 0. There is no ISA bridge: slot 1 stays empty.
///
/// Thread: BQL. Owns: the bus.
class PciHost final : public SavedDevice<PciHostState> {
 public:
  static constexpr uint64_t kPortSize = 4;
  static constexpr memory::IoAccess kAddressAccess{
      .min_size = 1, .max_size = 4, .impl_min = 1, .impl_max = 4, .unaligned = false};
  /// Any bytes within the dword: they become the byte enables of the configuration cycle.
  static constexpr memory::IoAccess kDataAccess{
      .min_size = 1, .max_size = 4, .impl_min = 1, .impl_max = 4, .unaligned = true};

  struct Windows {
    memory::MemoryRegion& io;
    memory::MemoryRegion& memory;
  };
  /// `byte_port_cf9` takes byte accesses to 0xcf9, the reset control register that hides inside
  /// the configuration address; it outlives the host.
  PciHost(std::string id, Windows windows, const std::array<IrqLine, PciBus::kWires>& intx,
          memory::IoHandler& byte_port_cf9);
  ~PciHost() override;

  PciBus& bus() noexcept { return bus_; }
  memory::MemoryRegion& address_port() noexcept { return address_region_; }  ///< at 0xcf8
  memory::MemoryRegion& data_port() noexcept { return data_region_; }        ///< at 0xcfc
  memory::IoHandler& address_handler() noexcept { return address_handler_; }
  memory::IoHandler& data_handler() noexcept { return data_handler_; }

  /// Resets the ports and every device on the bus.
  void reset() override REQUIRES(bql);

 private:
  struct AddressPort final : memory::IoHandler {
    explicit AddressPort(PciHost& pci_host) : host(pci_host) {}
    uint64_t io_read(uint64_t offset, unsigned size) override;
    void io_write(uint64_t offset, uint64_t value, unsigned size) override;
    PciHost& host;
  };
  struct DataPort final : memory::IoHandler {
    explicit DataPort(PciHost& pci_host) : host(pci_host) {}
    uint64_t io_read(uint64_t offset, unsigned size) override;
    void io_write(uint64_t offset, uint64_t value, unsigned size) override;
    PciHost& host;
  };
  /// The function that the address port names; empty if it is disabled or on another bus.
  struct Target {
    unsigned slot, function;
    uint8_t offset;
  };
  std::optional<Target> target(uint64_t offset, unsigned size) const REQUIRES(bql);

  class HostBridge;
  Result<void> do_realize() override REQUIRES(bql);
  void do_unrealize() override REQUIRES(bql);
  PciHostState state() override REQUIRES(bql);
  Result<void> check_state(const PciHostState& state) const override REQUIRES(bql);
  void set_state(const PciHostState& state) override REQUIRES(bql);

  memory::IoHandler& byte_port_cf9_;
  AddressPort address_handler_{*this};
  DataPort data_handler_{*this};
  memory::MemoryRegion address_region_;
  memory::MemoryRegion data_region_;
  PciBus bus_;
  std::shared_ptr<HostBridge> bridge_ GUARDED_BY(bql);
  uint32_t address_ GUARDED_BY(bql) = 0;
};

}  // namespace rhea::devices
