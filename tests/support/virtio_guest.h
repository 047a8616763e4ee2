// A guest's side of a virtio device, without a guest: RAM, a PCI bus, and a driver that does by
// hand what Linux would.
#pragma once

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "devices/pci_bus.h"
#include "devices/virtio/virtio_pci.h"
#include "memory/address_space.h"
#include "memory/ram_block.h"
#include "tests/support/fake_irq.h"
#include "tests/support/fake_msi.h"
#include "tests/support/guest_queue.h"
#include "util/bql.h"
#include "util/fd.h"

namespace rhea::test {

/// The machine around the device.
/// Thread: main, with the BQL.
class VirtioMachine {
 public:
  static constexpr uint64_t kRamBytes = 32 << 20;
  static constexpr uint64_t kMsixAt = 0xc010'0000, kBarAt = 0xc000'0000;

  VirtioMachine() REQUIRES(bql) : ram_block_(MUST(make_ram())), ram_("ram", ram_block_) {
    root_.add(window_, 0, -1);
    root_.add(ram_, 0);
    space_.emplace("memory", root_);
    bus_ = std::make_unique<devices::PciBus>(
        "pci.0", io_, window_,
        std::array{irqs_.line(0), irqs_.line(1), irqs_.line(2), irqs_.line(3)});
  }
  ~VirtioMachine() {
    bql.assert_held();
    bus_.reset();
    space_.reset();
    root_.remove(ram_);
    root_.remove(window_);
  }

  memory::AddressSpace& space() { return *space_; }
  memory::GuestMemory dma() { return memory::GuestMemory(*space_); }
  devices::PciBus& bus() { return *bus_; }
  std::byte* ram() { return ram_block_->host(); }
  FakeIrq& irqs() { return irqs_; }
  FakeMsi& msi() { return msi_; }

 private:
  static Result<std::shared_ptr<memory::RamBlock>> make_ram() {
    memory::RamBlockConfig config;
    config.name = "ram";
    config.size_bytes = kRamBytes;
    return memory::RamBlock::create(config);
  }
  FakeIrq irqs_;
  FakeMsi msi_;
  memory::MemoryRegion root_{"root", UINT64_MAX}, window_{"pci", UINT64_MAX}, io_{"io", 65536};
  std::shared_ptr<memory::RamBlock> ram_block_;
  memory::MemoryRegion ram_;
  std::optional<memory::AddressSpace> space_;
  std::unique_ptr<devices::PciBus> bus_;
};

/// The driver of one function.
/// Thread: main, with the BQL.
class VirtioDriver {
 public:
  using Reg = devices::VirtioCommonReg;

  VirtioDriver(VirtioMachine& machine, unsigned slot) REQUIRES(bql)
      : machine_(machine), slot_(slot) {
    config_write(0x14, VirtioMachine::kMsixAt + slot * 0x10000, 4);
    config_write(0x20, VirtioMachine::kBarAt + slot * 0x10000, 4);
    config_write(0x24, 0, 4);
    config_write(0x04, 0x6, 2);
  }

  uint32_t config_read(uint8_t offset, unsigned size) REQUIRES(bql) {
    return machine_.bus().config_read(slot_, 0, offset, size);
  }
  void config_write(uint8_t offset, uint64_t value, unsigned size) REQUIRES(bql) {
    machine_.bus().config_write(slot_, 0, offset, static_cast<uint32_t>(value), size);
  }
  uint64_t load(uint64_t offset, unsigned size) {
    return machine_.space().load({VirtioMachine::kBarAt + slot_ * 0x10000 + offset}, size);
  }
  void store(uint64_t offset, uint64_t value, unsigned size) {
    machine_.space().store({VirtioMachine::kBarAt + slot_ * 0x10000 + offset}, value, size);
  }
  uint64_t read(Reg reg, unsigned size) { return load(std::to_underlying(reg), size); }
  void write(Reg reg, uint64_t value, unsigned size) {
    store(std::to_underlying(reg), value, size);
  }
  uint8_t status() { return static_cast<uint8_t>(read(Reg::kStatus, 1)); }

  uint64_t offered() {
    write(Reg::kDeviceFeatureSelect, 0, 4);
    const uint64_t low = read(Reg::kDeviceFeature, 4);
    write(Reg::kDeviceFeatureSelect, 1, 4);
    return low | read(Reg::kDeviceFeature, 4) << 32;
  }
  /// From reset to FEATURES_OK, with what is offered of `features`.
  void negotiate(uint64_t features) {
    write(Reg::kStatus, 0, 1);
    REQUIRE(status() == 0);
    write(Reg::kStatus, 1, 1);
    write(Reg::kStatus, 3, 1);
    const uint64_t accepted = features & offered();
    for (const unsigned half : {0U, 1U}) {
      write(Reg::kDriverFeatureSelect, half, 4);
      write(Reg::kDriverFeature, (accepted >> (32 * half)) & 0xffff'ffff, 4);
    }
    write(Reg::kStatus, 11, 1);
    REQUIRE(status() == 11);
  }
  /// MSI-X on, with every vector unmasked.
  void use_msix() REQUIRES(bql) {
    auto at = static_cast<uint8_t>(config_read(0x34, 1));
    while (config_read(at, 1) != devices::Msix::kCapabilityId) {
      at = static_cast<uint8_t>(config_read(static_cast<uint8_t>(at + 1), 1));
      REQUIRE(at != 0);
    }
    const auto control = static_cast<uint8_t>(at + 2);
    const uint32_t vectors = (config_read(control, 2) & 0x7ff) + 1;
    for (uint32_t i = 0; i < vectors; ++i) {
      machine_.space().store({VirtioMachine::kMsixAt + slot_ * 0x10000 + i * 16 + 12}, 0, 4);
    }
    config_write(control, 0x8000, 2);
  }
  /// A queue at `at` in RAM, with MSI-X vector `vector`.
  GuestQueue set_up_queue(uint16_t index, uint64_t at, uint16_t size, int doorbell,
                          uint16_t vector = devices::kNoVector) {
    GuestQueue queue(machine_.ram(), at, size, doorbell);
    write(Reg::kQueueSelect, index, 2);
    write(Reg::kQueueSize, size, 2);
    write(Reg::kQueueVector, vector, 2);
    write_address(Reg::kQueueDescriptors, queue.descriptors());
    write_address(Reg::kQueueDriver, queue.available());
    write_address(Reg::kQueueDevice, queue.used());
    write(Reg::kQueueEnable, 1, 2);
    return queue;
  }
  void go() {
    write(Reg::kStatus, 15, 1);
    REQUIRE(status() == 15);
  }
  void write_address(Reg reg, uint64_t address) { store(std::to_underlying(reg), address, 8); }

 private:
  VirtioMachine& machine_;
  const unsigned slot_;
};

}  // namespace rhea::test
