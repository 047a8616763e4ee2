// PcMachine: the board: address spaces, RAM, and the devices at the places where a PC has them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "devices/acpi_pci_hotplug.h"
#include "devices/acpi_pm.h"
#include "devices/chardev.h"
#include "devices/debug_console.h"
#include "devices/i8042.h"
#include "devices/irq.h"
#include "devices/msi.h"
#include "devices/pci_bus.h"
#include "devices/pci_host.h"
#include "devices/port92.h"
#include "devices/reset_port_cf9.h"
#include "devices/rtc_mc146818.h"
#include "devices/serial_16550.h"
#include "memory/address_space.h"
#include "memory/ram_block.h"
#include "memory/region.h"
#include "util/bql.h"
#include "util/error.h"
#include "util/timer.h"
#include "vmm/acpi/tables.h"
#include "vmm/boot/boot_state.h"
#include "vmm/boot/e820.h"
#include "vmm/boot/load_kernel.h"
#include "vmm/config.h"
#include "vmm/machine_requests.h"
#include "vmm/registered_ram.h"

namespace rhea::vmm {

/// The machine `pc`. The layout follows QEMU's, see README.md.
///
/// Thread: main with the BQL. Owns: RAM, both address spaces, the devices.
/// Invariants: everything in it is made before the first vCPU runs and lives until the last has
/// ended.
class PcMachine {
 public:
  /// What the board is wired to; all outlive it.
  struct Wiring {
    devices::IrqSink& irqs;
    devices::MsiRouter& msi;
    MachineRequests& requests;
    TimerList& vm_timers;
    const Clock& utc;
    std::vector<devices::CharBackend*> serials;  ///< in port order; null: a port without a cable
    devices::CharBackend* debug_console = nullptr;
  };
  static constexpr size_t kMaxSerials = 2;

  /// The machine with its RAM and nothing else: the accelerator is attached to it now.
  /// Errors: the host has no memory for the RAM, or a file to boot from can not be opened.
  static Result<std::unique_ptr<PcMachine>> create(const VmConfig& config, const Wiring& wiring)
      REQUIRES(bql);
  /// Once. Errors: a device can not be made.
  Result<void> add_devices() REQUIRES(bql);
  ~PcMachine();

  memory::AddressSpace& memory() noexcept { return *memory_; }
  memory::AddressSpace& io() noexcept { return *io_; }
  devices::PciBus& pci() noexcept { return pci_host_->bus(); }
  devices::AcpiPciHotplug& pci_hotplug() noexcept { return *pci_hotplug_; }
  const std::shared_ptr<memory::RamBlock>& ram() const noexcept { return ram_block_; }
  /// The board's own, in the order of their realization.
  std::span<const std::shared_ptr<devices::Device>> devices() const noexcept { return devices_; }

  /// Puts every device into its power-on state. RAM keeps its contents.
  void reset() REQUIRES(bql);
  /// Copies kernel, initrd and tables into RAM. Errors: see load_kernel().
  Result<BootState> load_kernel() REQUIRES(bql);
  void press_power_button() REQUIRES(bql) { pm_->power_button(); }

 private:
  PcMachine(const VmConfig& config, const Wiring& wiring);
  Result<void> describe();
  Result<void> map_ram() REQUIRES(bql);
  Result<void> add_board() REQUIRES(bql);
  Result<void> add_power_management() REQUIRES(bql);
  Result<void> add_serials() REQUIRES(bql);
  Result<void> add_pci() REQUIRES(bql);
  void do_as_firmware() REQUIRES(bql);
  /// Shows a device's region in `container` until the machine goes.
  void map(memory::MemoryRegion& container, memory::MemoryRegion& region, uint64_t offset)
      REQUIRES(bql);

  struct Mapping {
    memory::MemoryRegion* container;
    memory::MemoryRegion* region;
  };
  template <class D>
  Result<void> realize(const std::shared_ptr<D>& device) REQUIRES(bql);

  const VmConfig& config_;
  const Wiring wiring_;
  MemoryLayout layout_;
  AcpiTables acpi_tables_;
  std::optional<KernelFiles> kernel_files_;  // none without -kernel
  memory::MemoryRegion memory_root_;
  memory::MemoryRegion io_root_;
  memory::MemoryRegion pci_memory_window_;
  memory::MemoryRegion pci_io_window_;
  std::shared_ptr<memory::RamBlock> ram_block_;
  std::unique_ptr<memory::MemoryRegion> ram_;
  std::vector<std::unique_ptr<memory::MemoryRegion>> ram_windows_;
  std::unique_ptr<memory::AddressSpace> memory_;
  const std::shared_ptr<RegisteredRam> registered_ram_ = std::make_shared<RegisteredRam>();
  std::unique_ptr<memory::AddressSpace> io_;
  std::vector<Mapping> mapped_;  // in the order of mapping
  std::shared_ptr<devices::AcpiPm> pm_;
  std::shared_ptr<devices::AcpiPciHotplug> pci_hotplug_;
  std::shared_ptr<devices::PciHost> pci_host_;
  std::vector<std::shared_ptr<devices::Device>> devices_;  // in the order of their realization
};

}  // namespace rhea::vmm
