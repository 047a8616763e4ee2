// What the tests of the PCI bus share: a host bridge on real address spaces, and a function.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "devices/pci_bus.h"
#include "devices/pci_host.h"
#include "devices/reset_port_cf9.h"
#include "memory/address_space.h"
#include "tests/support/fake_irq.h"
#include "util/rcu.h"

namespace rhea::test {

using devices::BarKind;
using devices::PciBus;
using devices::PciDevice;
using devices::PciHost;
using devices::ResetPortCf9;
using memory::GuestAddr;
using memory::MemoryRegion;

inline constexpr unsigned kFirstGsi = 16;
inline constexpr uint64_t kBarFill = 0x5a;

/// Answers every read with one byte's value and remembers the last store.
struct Registers final : memory::IoHandler {
  uint64_t io_read(uint64_t, unsigned) override { return kBarFill; }
  void io_write(uint64_t, uint64_t value, unsigned) override { last = value; }
  uint64_t last = 0;
};

/// A function with a BAR of each kind: 0 is I/O, 1 32-bit memory, 2 and 3 64-bit memory.
class TestDevice final : public PciDevice {
 public:
  explicit TestDevice(std::string name, uint8_t pin = 1)
      : PciDevice(std::move(name), {.vendor = 0x1b36, .device = 0x0005, .interrupt_pin = pin}) {
    add_bar(0, BarKind::kIo, io);
    add_bar(1, BarKind::kMemory32, memory32);
    add_bar(2, BarKind::kMemory64, memory64);
  }
  using PciDevice::check_pci_state;
  using PciDevice::pci_state;
  using PciDevice::set_intx;
  using PciDevice::set_pci_state;

  Registers registers;
  MemoryRegion io{"io", 64, registers};
  MemoryRegion memory32{"memory32", 4096, registers};
  MemoryRegion memory64{"memory64", 65'536, registers};

 private:
  Result<void> do_realize() override REQUIRES(bql) {
    for (auto* region : {&io, &memory32, &memory64}) own(*region);
    return ok();
  }
};

/// Counts how often the shape of an address space changed.
struct Changes final : memory::MemoryListener {
  void begin() override { ++count; }
  unsigned count = 0;
};

/// A host bridge on real address spaces.
class Machine {
 public:
  Machine() REQUIRES(bql) {
    io_space_.emplace("io", io_root_);
    memory_space_.emplace("memory", memory_root_);
    MUST(cf9->realize());
    MUST(host->realize());
    io_root_.add(host->address_port(), 0xcf8);
    io_root_.add(host->data_port(), 0xcfc);
  }
  ~Machine() {
    bql.assert_held();
    for (unsigned slot = 1; slot < PciBus::kSlots; ++slot) {
      if (PciDevice* device = host->bus().device_at(slot)) {
        host->bus().remove(*device)->unrealize();
      }
    }
    io_root_.remove(host->address_port());
    io_root_.remove(host->data_port());
    host->unrealize();
    cf9->unrealize();
  }

  std::shared_ptr<TestDevice> plug(unsigned slot, uint8_t pin = 1) REQUIRES(bql) {
    auto device = std::make_shared<TestDevice>("dev" + std::to_string(slot), pin);
    MUST(device->realize());
    MUST(host->bus().add(device, slot));
    return device;
  }
  uint64_t in(uint64_t port, unsigned size) { return io_space_->load(GuestAddr{port}, size); }
  void out(uint64_t port, uint64_t value, unsigned size) {
    io_space_->store(GuestAddr{port}, value, size);
  }
  void select(unsigned slot, unsigned reg, unsigned function = 0, unsigned bus_number = 0) {
    out(0xcf8, 0x8000'0000U | bus_number << 16 | slot << 11 | function << 8 | (reg & 0xfc), 4);
  }
  uint64_t config_in(unsigned slot, unsigned reg, unsigned size) {
    select(slot, reg);
    return in(0xcfc + (reg & 3), size);
  }
  void config_out(unsigned slot, unsigned reg, uint64_t value, unsigned size) {
    select(slot, reg);
    out(0xcfc + (reg & 3), value, size);
  }
  uint64_t memory_load(uint64_t address) { return memory_space_->load(GuestAddr{address}, 1); }
  memory::AddressSpace& memory_space() { return *memory_space_; }

 private:
  RcuThread self_;
  MemoryRegion io_root_{"io", 0x1'0000};
  MemoryRegion memory_root_{"memory", UINT64_MAX};
  std::optional<memory::AddressSpace> io_space_;
  std::optional<memory::AddressSpace> memory_space_;

 public:
  unsigned resets = 0;
  FakeIrq irq;
  std::shared_ptr<ResetPortCf9> cf9 = std::make_shared<ResetPortCf9>("cf9", [this] { ++resets; });
  std::shared_ptr<PciHost> host =
      std::make_shared<PciHost>("pci", PciHost::Windows{.io = io_root_, .memory = memory_root_},
                                std::array{irq.line(kFirstGsi), irq.line(kFirstGsi + 1),
                                           irq.line(kFirstGsi + 2), irq.line(kFirstGsi + 3)},
                                *cf9);
};

}  // namespace rhea::test
