#include "vmm/pc_machine.h"

#include <cpuid.h>

#include <algorithm>
#include <array>
#include <ranges>
#include <utility>

#include "util/check.h"
#include "vmm/apic_topology.h"
#include "vmm/boot/boot_memory.h"
#include "vmm/pc_layout.h"

namespace rhea::vmm {
namespace {

using devices::IrqLine;
using memory::MemoryRegion;

constexpr uint64_t kGuestSpace = uint64_t{1} << 52;
constexpr uint64_t kIoSpace = uint64_t{1} << 16;

// Where the devices without an entry in pc_layout.h sit: nobody but the guest knows them.
constexpr uint64_t kKeyboardData = 0x60;
constexpr uint64_t kKeyboardCommand = 0x64;
constexpr uint64_t kRtc = 0x70;
constexpr uint64_t kPort92 = 0x92;
constexpr uint64_t kDebugConsole = 0x402;
constexpr uint64_t kPciAddress = 0xcf8;
constexpr uint64_t kPciData = 0xcfc;
constexpr unsigned kKeyboardIrq = 1;
constexpr unsigned kRtcIrq = 8;
constexpr unsigned kAuxIrq = 12;
constexpr int kPciPriority = -1;

struct SerialPort {
  uint64_t port;
  unsigned irq;
};
constexpr std::array<SerialPort, PcMachine::kMaxSerials> kSerialPorts{SerialPort{0x3f8, 4},
                                                                      SerialPort{0x2f8, 3}};

/// How wide a physical address is; the guest's CPUID says the same. [SDM vol. 2, CPUID 80000008H]
unsigned host_address_bits() {
  constexpr unsigned kAddressSizes = 0x80000008;
  constexpr unsigned kNarrowest = 36;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(kAddressSizes, &eax, &ebx, &ecx, &edx) == 0) return kNarrowest;
  return std::clamp(eax & 0xff, kNarrowest, 52U);
}

memory::RamBlockConfig ram_config(const MemoryBackendConfig& backend) {
  using Type = memory::RamBlockConfig::Type;
  memory::RamBlockConfig config;
  switch (backend.type) {
    case MemoryBackendConfig::Type::kRam:
      // Shared memory needs an object behind it.
      config.type = backend.share ? Type::kMemfd : Type::kAnonymous;
      break;
    case MemoryBackendConfig::Type::kMemfd:
      config.type = Type::kMemfd;
      break;
    case MemoryBackendConfig::Type::kFile:
      config.type = Type::kFile;
      break;
  }
  config.name = backend.id.empty() ? "pc.ram" : backend.id;
  config.size_bytes = backend.size_bytes;
  config.path = backend.path;
  config.share = backend.share;
  config.prealloc = backend.prealloc;
  config.hugetlb = backend.hugetlb;
  config.hugetlb_size_bytes = backend.hugetlb_size_bytes;
  return config;
}

}  // namespace

PcMachine::PcMachine(const VmConfig& config, const Wiring& wiring)
    : config_(config),
      wiring_(wiring),
      memory_root_("system", kGuestSpace),
      io_root_("io", kIoSpace),
      pci_memory_window_("pci-memory", kGuestSpace),
      pci_io_window_("pci-io", kIoSpace) {}

PcMachine::~PcMachine() {
  bql.assert_held();
  {
    // Out of the tree first: a view that RCU still holds may be the last to let a device go, on its
    // own thread, and the device's regions must not reach for containers that this thread takes
    // down.
    const memory::MemoryTransaction transaction;
    for (const Mapping& mapping : mapped_ | std::views::reverse) {
      mapping.container->remove(*mapping.region);
    }
  }
  for (auto& device : devices_ | std::views::reverse) device->unrealize();
  if (memory_ != nullptr) memory_->unregister_listener(*registered_ram_);
}

void PcMachine::map(MemoryRegion& container, MemoryRegion& region, uint64_t offset) {
  container.add(region, offset);
  mapped_.push_back({&container, &region});
}

Result<std::unique_ptr<PcMachine>> PcMachine::create(const VmConfig& config, const Wiring& wiring) {
  std::unique_ptr<PcMachine> machine(new PcMachine(config, wiring));
  if (config.kernel) {
    machine->kernel_files_ = TRY(KernelFiles::open(*config.kernel, config.initrd));
  }
  TRY(machine->describe());
  TRY(machine->map_ram());
  machine->memory_ = std::make_unique<memory::AddressSpace>("memory", machine->memory_root_);
  machine->io_ = std::make_unique<memory::AddressSpace>("I/O", machine->io_root_);
  machine->memory_->register_listener(machine->registered_ram_);
  return machine;
}

/// Works out the layout and the tables, which a reset only copies again.
Result<void> PcMachine::describe() {
  layout_ = TRY(MemoryLayout::create(config_.memory.size_bytes, host_address_bits()));
  AcpiConfig acpi{.layout = layout_, .apic_ids = {}, .serial_ports = {}};
  const ApicTopology topology = ApicTopology::of(config_.smp);
  for (unsigned cpu = 0; cpu < config_.smp.cpus; ++cpu) {
    acpi.apic_ids.push_back(topology.apic_id(config_.smp, cpu));
  }
  for (size_t i = 0; i < wiring_.serials.size(); ++i) acpi.serial_ports[i] = true;
  acpi_tables_ = TRY(build_acpi_tables(acpi));
  return ok();
}

Result<void> PcMachine::map_ram() {
  ram_block_ = TRY(memory::RamBlock::create(ram_config(config_.memory)));
  const uint64_t size = ram_block_->size_bytes();
  ram_ = std::make_unique<MemoryRegion>("pc.ram", ram_block_);
  const uint64_t below = std::min(size, pc::kMaxLowRam);
  const auto window = [&](const char* name, uint64_t offset, uint64_t bytes, uint64_t address) {
    bql.assert_held();
    ram_windows_.push_back(std::make_unique<MemoryRegion>(name, *ram_, offset, bytes));
    memory_root_.add(*ram_windows_.back(), address);
  };
  window("ram-below-4g", 0, below, 0);
  if (size > below) window("ram-above-4g", below, size - below, pc::kHighRam.value);
  return ok();
}

template <class D>
Result<void> PcMachine::realize(const std::shared_ptr<D>& device) {
  TRY(device->realize());
  devices_.push_back(device);
  return ok();
}

Result<void> PcMachine::add_devices() {
  const memory::MemoryTransaction transaction;
  TRY(add_board());
  TRY(add_power_management());
  TRY(add_serials());
  return add_pci();
}

Result<void> PcMachine::add_board() {
  MachineRequests& requests = wiring_.requests;
  const auto reset = [&requests] {
    bql.assert_held();
    requests.request_reset(Cause::kGuestReset);
  };
  const auto irq = [this](unsigned line) { return IrqLine(wiring_.irqs, line); };

  auto keyboard = std::make_shared<devices::I8042>("i8042", irq(kKeyboardIrq), irq(kAuxIrq), reset);
  TRY(realize(keyboard));
  map(io_root_, keyboard->data_port(), kKeyboardData);
  map(io_root_, keyboard->command_port(), kKeyboardCommand);

  auto rtc =
      std::make_shared<devices::RtcMc146818>("rtc", irq(kRtcIrq), wiring_.utc, wiring_.vm_timers);
  TRY(realize(rtc));
  map(io_root_, rtc->io(), kRtc);

  auto port92 = std::make_shared<devices::Port92>("port92", reset);
  TRY(realize(port92));
  map(io_root_, port92->io(), kPort92);

  if (wiring_.debug_console != nullptr) {
    auto console = std::make_shared<devices::DebugConsole>("debugcon");
    console->set_backend(wiring_.debug_console);
    TRY(realize(console));
    map(io_root_, console->io(), kDebugConsole);
  }
  return ok();
}

Result<void> PcMachine::add_power_management() {
  MachineRequests& requests = wiring_.requests;
  pm_ = std::make_shared<devices::AcpiPm>("acpi-pm", IrqLine(wiring_.irqs, pc::kSciGsi),
                                          wiring_.vm_timers, devices::PmTimerWidth::k24Bits,
                                          [&requests] {
                                            bql.assert_held();
                                            requests.request_shutdown(Cause::kGuestShutdown);
                                          });
  TRY(realize(pm_));
  map(io_root_, pm_->events(), pc::kPmEventPort);
  map(io_root_, pm_->timer(), pc::kPmTimerPort);
  map(io_root_, pm_->gpe(), pc::kGpePort);

  using devices::AcpiPciHotplug;
  pci_hotplug_ = std::make_shared<AcpiPciHotplug>("pci-hotplug", [pm = pm_.get()] {
    bql.assert_held();
    pm->raise_gpe(AcpiPciHotplug::kGpe);
  });
  TRY(realize(pci_hotplug_));
  map(io_root_, pci_hotplug_->io(), pc::kPciHotplugPort);
  pm_->set_gpe_listener(AcpiPciHotplug::kGpe, [hotplug = pci_hotplug_.get()] {
    bql.assert_held();
    hotplug->event_enabled();
  });
  return ok();
}

Result<void> PcMachine::add_serials() {
  RHEA_CHECK(wiring_.serials.size() <= kMaxSerials, "{} serial ports", wiring_.serials.size());
  for (size_t i = 0; i < wiring_.serials.size(); ++i) {
    auto serial = std::make_shared<devices::Serial16550>("serial" + std::to_string(i),
                                                         IrqLine(wiring_.irqs, kSerialPorts[i].irq),
                                                         wiring_.vm_timers);
    serial->set_backend(wiring_.serials[i]);
    TRY(realize(serial));
    map(io_root_, serial->io(), kSerialPorts[i].port);
  }
  return ok();
}

Result<void> PcMachine::add_pci() {
  MachineRequests& requests = wiring_.requests;
  auto cf9 = std::make_shared<devices::ResetPortCf9>("reset-cf9", [&requests] {
    bql.assert_held();
    requests.request_reset(Cause::kGuestReset);
  });
  TRY(realize(cf9));
  std::array<IrqLine, devices::PciBus::kWires> intx;
  for (unsigned i = 0; i < intx.size(); ++i) intx[i] = IrqLine(wiring_.irqs, pc::kFirstIntxGsi + i);
  // A BAR shows where the guest puts it, below everything else: it can not hide RAM or a port.
  memory_root_.add(pci_memory_window_, 0, kPciPriority);
  io_root_.add(pci_io_window_, 0, kPciPriority);
  const devices::PciHost::Windows windows{.io = pci_io_window_, .memory = pci_memory_window_};
  auto host = std::make_shared<devices::PciHost>("pci-host", windows, intx, *cf9);
  TRY(realize(host));
  map(io_root_, host->address_port(), kPciAddress);
  map(io_root_, host->data_port(), kPciData);
  pci_host_ = std::move(host);
  return ok();
}

void PcMachine::reset() {
  {
    const memory::MemoryTransaction transaction;
    for (auto& device : devices_) device->reset();
  }
  do_as_firmware();
}

/// What a kernel expects to find done. A 16550 comes out of reset with words of five bits, and
/// early consoles do not set the line up.
void PcMachine::do_as_firmware() {
  constexpr uint64_t kLineControl = 3;
  constexpr uint64_t kEightBitsNoParity = 0x03;
  for (size_t i = 0; i < wiring_.serials.size(); ++i) {
    io_->store(memory::GuestAddr{kSerialPorts[i].port + kLineControl}, kEightBitsNoParity, 1);
  }
}

Result<BootState> PcMachine::load_kernel() {
  AddressSpaceMemory ram(*memory_);
  TRY(ram.write(acpi_tables_.base, acpi_tables_.bytes));
  return vmm::load_kernel(ram, BootInputs{.kernel = kernel_files_->kernel(),
                                          .initrd = kernel_files_->initrd(),
                                          .command_line = config_.append,
                                          .layout = layout_,
                                          .rsdp = acpi_tables_.base});
}

}  // namespace rhea::vmm
