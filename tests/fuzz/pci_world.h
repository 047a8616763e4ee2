// The machine `pc` with functions on its PCI bus, beside the model of what a guest should see.
#pragma once

#include <sys/mman.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "block/graph.h"
#include "devices/virtio/virtio_blk.h"
#include "devices/virtio/virtio_pci.h"
#include "tests/fuzz/pci_model.h"
#include "tests/support/fake_msi.h"
#include "tests/support/manual_clock.h"
#include "util/io_thread.h"
#include "util/main_loop.h"
#include "util/rcu.h"
#include "vmm/pc_layout.h"
#include "vmm/pc_machine.h"
#include "vmm/qtest_irq.h"
#include "vmm/qtest_msi.h"

namespace rhea::test {

/// A function with the kinds of BAR that a disk has not: I/O ports, 256 MiB and a TiB of memory.
class SpareFunction final : public devices::PciDevice {
 public:
  SpareFunction() : PciDevice("spare", {.vendor = 0x1b36, .device = 5, .interrupt_pin = 2}) {
    add_bar(0, devices::BarKind::kIo, io_);
    add_bar(1, devices::BarKind::kMemory32, small_);
    add_bar(2, devices::BarKind::kMemory64, large_);
  }

 private:
  struct Registers final : memory::IoHandler {
    uint64_t io_read(uint64_t offset, unsigned) override { return offset; }
    void io_write(uint64_t, uint64_t, unsigned) override {}
  };
  Result<void> do_realize() override REQUIRES(bql) {
    for (auto* region : {&io_, &small_, &large_}) own(*region);
    return ok();
  }
  Registers registers_;
  memory::MemoryRegion io_{"spare-io", 64, registers_};
  memory::MemoryRegion small_{"spare-small", 256 << 20, registers_};
  memory::MemoryRegion large_{"spare-large", uint64_t{1} << 40, registers_};
};

/// One function, and what is expected of it.
struct FunctionUnderTest {
  unsigned slot = 0;
  unsigned pin = 0;
  devices::VirtioPci* virtio = nullptr;  ///< null for the others
  FakeMsi* msi = nullptr;                ///< null: its messages are stores
  unsigned access_capability = 0;        ///< VIRTIO_PCI_CAP_PCI_CFG
  unsigned msix_capability = 0;
  ConfigModel config;
  std::vector<BarModel> bars;
};

/// The machine: RAM on both sides of 4 GiB, the host bridge in slot 0, a disk whose queue runs on
/// main in slot 2 and one with two queues on an iothread in slot 3, and a spare function in slot 4.
/// Thread: main, which holds the BQL from its creation to its end.
class PciWorld {
 public:
  static constexpr uint64_t kRamBytes = uint64_t{4} << 30;
  static constexpr unsigned kVectors[2] = {2, 3};

  using Serials = std::vector<devices::CharBackend*>;

  // Unchecked: the destructor gives the BQL back.
  explicit PciWorld(const Serials& serials = {}) NO_THREAD_SAFETY_ANALYSIS {
    bql.lock();
    loop_ = MUST(MainLoop::create());
    pool_ = std::make_unique<ThreadPool>(ThreadPool::Limits{});
    graph_ = std::make_unique<block::Graph>(*loop_, *pool_);
    thread_ = MUST(IOThread::create("io"));
    context_ = MUST(block::BlockContext::create(thread_->context()));
    store_msi_ = std::make_unique<vmm::QtestMsi>(loop_->service());
    timers_ = std::make_unique<TimerList>(clock_, [] {});
    config_.memory.size_bytes = kRamBytes;
    machine_ = MUST(vmm::PcMachine::create(config_, {.irqs = irqs_,
                                                     .msi = *store_msi_,
                                                     .requests = requests_,
                                                     .vm_timers = *timers_,
                                                     .utc = clock_,
                                                     .serials = serials}));
    MUST(machine_->add_devices());
    store_msi_->attach(machine_->memory());
    add_disk(0, {&loop_->block()}, fake_msi_);
    add_disk(1, {&thread_->context(), &thread_->context()}, *store_msi_);
    functions_[3].slot = 4;
    functions_[3].pin = 2;
    plug(std::make_shared<SpareFunction>(), functions_[3].slot);
    machine_->reset();
  }
  // Unchecked: the constructor took the BQL.
  ~PciWorld() NO_THREAD_SAFETY_ANALYSIS {
    for (const auto& device : devices_) machine_->pci().remove(*device)->unrealize();
    devices_.clear();
    machine_.reset();
    timers_.reset();
    store_msi_.reset();
    graph_.reset();
    context_.reset();
    thread_.reset();
    pool_.reset();
    loop_.reset();
    bql.unlock();
    rcu_drain_callbacks();
  }

  vmm::PcMachine& machine() { return *machine_; }
  MainLoop& loop() { return *loop_; }
  block::Graph& graph() { return *graph_; }
  void plug(std::shared_ptr<devices::PciDevice> device, unsigned slot) REQUIRES(bql) {
    MUST(device->realize());
    MUST(machine_->pci().add(device, slot));
    devices_.push_back(std::move(device));
  }
  /// All that is plugged: two disks, the spare function and what came later.
  const std::vector<std::shared_ptr<devices::PciDevice>>& plugged() const { return devices_; }
  /// The host bridge, two disks, the spare function.
  std::array<FunctionUnderTest, 4>& functions() { return functions_; }
  bool irq_level(unsigned wire) const { return irqs_.level(vmm::pc::kFirstIntxGsi + wire); }
  bool take_reset_request() { return std::exchange(requests_.reset, false); }

  uint32_t config_read(const FunctionUnderTest& f, unsigned offset, unsigned size) REQUIRES(bql) {
    return machine_->pci().config_read(f.slot, 0, static_cast<uint8_t>(offset), size);
  }
  void config_write(const FunctionUnderTest& f, unsigned offset, uint32_t value, unsigned size)
      REQUIRES(bql) {
    machine_->pci().config_write(f.slot, 0, static_cast<uint8_t>(offset), value, size);
  }
  /// Runs what main has to do, without waiting for more.
  void turn() REQUIRES(bql) {
    loop_->service().notify();
    loop_->turn();
  }
  void forget_ram() {
    const auto view = machine_->memory().pin();
    for (const memory::FlatRange& range : view->ranges()) {
      if (range.ram == nullptr) continue;
      RHEA_CHECK(::madvise(range.host(range.base), range.size_bytes, MADV_DONTNEED) == 0);
    }
  }

 private:
  struct Requests final : vmm::MachineRequests {
    void request_reset(vmm::Cause) override { reset = true; }
    void request_shutdown(vmm::Cause) override {}
    void disk_error(const vmm::DiskError&) override {}
    bool reset = false;
  };
  struct NoErrors final : devices::IoErrorSink {
    void io_error(const devices::IoError&) override {}
  };

  void add_disk(unsigned index, std::vector<AioContext*> queues, devices::MsiRouter& router)
      REQUIRES(bql) {
    const std::string id = "d" + std::to_string(index);
    MUST(graph_->add(loop_->gs(), MUST(parse_options("driver=null-co,size=1M,node-name=" + id))));
    devices::VirtioBlkConfig config;
    config.node = id;
    config.queues = std::move(queues);
    auto disk = std::make_unique<devices::VirtioBlk>(
        id, devices::VirtioDevice::Host{*loop_, memory::GuestMemory(machine_->memory())}, *graph_,
        std::move(config), errors_);
    auto pci = std::make_shared<devices::VirtioPci>(id, std::move(disk), router, *loop_);
    FunctionUnderTest& f = functions_[1 + index];
    f.slot = 2 + index;
    f.pin = 1;
    f.virtio = pci.get();
    f.msi = &router == &fake_msi_ ? &fake_msi_ : nullptr;
    plug(std::move(pci), f.slot);
  }

  RcuThread rcu_thread_;
  Requests requests_;
  NoErrors errors_;
  ManualClock clock_;
  vmm::QtestIrqController irqs_;
  FakeMsi fake_msi_{FakeMsi::Accepts::kLocalApics};
  vmm::VmConfig config_;
  std::unique_ptr<MainLoop> loop_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<block::Graph> graph_;
  std::unique_ptr<IOThread> thread_;
  std::unique_ptr<block::BlockContext> context_;
  std::unique_ptr<vmm::QtestMsi> store_msi_;
  std::unique_ptr<TimerList> timers_;
  std::unique_ptr<vmm::PcMachine> machine_;
  std::vector<std::shared_ptr<devices::PciDevice>> devices_;
  std::array<FunctionUnderTest, 4> functions_;
};

}  // namespace rhea::test
