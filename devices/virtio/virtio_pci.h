// VirtioPci: a virtio device on the PCI bus, modern interface only. [virtio-1.2 4.1]
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "devices/msix.h"
#include "devices/pci_device.h"
#include "devices/virtio/virtio_device.h"
#include "memory/io_handler.h"
#include "memory/region.h"

namespace rhea::devices {

/// The common configuration structure's registers. [virtio-1.2 4.1.4.3]
enum class VirtioCommonReg : uint8_t {
  kDeviceFeatureSelect = 0x00,
  kDeviceFeature = 0x04,
  kDriverFeatureSelect = 0x08,
  kDriverFeature = 0x0c,
  kConfigVector = 0x10,
  kNumQueues = 0x12,
  kStatus = 0x14,
  kConfigGeneration = 0x15,
  kQueueSelect = 0x16,
  kQueueSize = 0x18,
  kQueueVector = 0x1a,
  kQueueEnable = 0x1c,
  kQueueNotifyOffset = 0x1e,
  kQueueDescriptors = 0x20,
  kQueueDescriptorsHigh = 0x24,
  kQueueDriver = 0x28,
  kQueueDriverHigh = 0x2c,
  kQueueDevice = 0x30,
  kQueueDeviceHigh = 0x34,
  kQueueNotifyData = 0x38,
  kQueueReset = 0x3a,
};

/// The function: capabilities, registers, interrupts.
///
/// BAR 4 holds the four structures, a page each; BAR 1 the MSI-X table. A queue's doorbell is an
/// eventfd at notify offset 4 * its number, so ringing it leads to no exit under KVM.
///
/// Thread: BQL; queue_interrupt() from any. Owns: the device behind it.
class VirtioPci final : public PciDevice, private VirtioTransport {
 public:
  static constexpr uint16_t kVendor = 0x1af4;
  static constexpr uint16_t kFirstDevice = 0x1040;
  static constexpr unsigned kMsixBar = 1;
  static constexpr unsigned kBar = 4;
  static constexpr uint64_t kPage = 4096;
  static constexpr uint32_t kNotifyMultiplier = 4;
  enum class Structure : uint8_t {
    kCommon = 1,
    kNotify = 2,
    kIsr = 3,
    kDevice = 4,
    kPciConfig = 5
  };

  /// `router` and `loop` outlive it.
  VirtioPci(std::string id, std::unique_ptr<VirtioDevice> device, MsiRouter& router,
            MainLoop& loop);
  ~VirtioPci() override;

  VirtioDevice& device() noexcept { return *device_; }

  StateFormat state_format() const override { return device_->state_format(); }
  std::string settings() const override REQUIRES(bql) { return device_->settings(); }
  std::vector<uint8_t> save() override REQUIRES(bql);
  Result<std::move_only_function<void()>> prepare_load(std::span<const uint8_t> bytes) override
      REQUIRES(bql);
  /// Every queue looks at its ring: what lies there was rung for on the other side. What may have
  /// been told there, and not have arrived, is told again.
  void resume_loaded() override REQUIRES(bql);

  void prepare_to_leave(std::function<void()> look) override REQUIRES(bql) {
    device_->prepare_to_leave(std::move(look));
  }
  bool idle() const override REQUIRES(bql) { return device_->idle(); }
  Result<void> leave() override REQUIRES(bql) { return device_->leave(); }
  void stay() override REQUIRES(bql) { device_->stay(); }

 private:
  /// One structure's page.
  struct Window final : memory::IoHandler {
    using Read = uint64_t (VirtioPci::*)(uint64_t offset, unsigned size);
    using Write = void (VirtioPci::*)(uint64_t offset, uint64_t value, unsigned size);
    Window(VirtioPci& owner, const char* name, Read reader, Write writer);
    uint64_t io_read(uint64_t offset, unsigned size) override;
    void io_write(uint64_t offset, uint64_t value, unsigned size) override;
    VirtioPci& pci;
    const Read read;
    const Write write;
    memory::MemoryRegion region;
  };
  struct Register;
  static const Register* find_register(uint64_t offset, unsigned size);

  Result<void> do_realize() override REQUIRES(bql);
  void do_unrealize() override REQUIRES(bql);
  void reset_function() override REQUIRES(bql);
  void config_written(uint8_t offset, unsigned size) override REQUIRES(bql);
  void config_reading(uint8_t offset, unsigned size) override REQUIRES(bql);

  void queue_interrupt(unsigned queue) noexcept override;
  void config_interrupt() override REQUIRES(bql);
  void reset_completed() override REQUIRES(bql);

  void add_capabilities();
  uint8_t add_capability(Structure structure, uint8_t size, uint32_t offset, uint32_t length);
  /// The access that the PCI configuration access capability describes, if it is a legal one.
  struct Indirect {
    Window* window;
    uint64_t offset;
    unsigned size;
  };
  std::optional<Indirect> indirect_access() REQUIRES(bql);

  uint64_t read_common(uint64_t offset, unsigned size) REQUIRES(bql);
  void write_common(uint64_t offset, uint64_t value, unsigned size) REQUIRES(bql);
  uint32_t read_queue(VirtioCommonReg reg) REQUIRES(bql);
  void write_queue(VirtioCommonReg reg, uint32_t value) REQUIRES(bql);
  void write_address(VirtioDevice::Ring ring, uint64_t VirtQueueConfig::* field, bool high,
                     uint32_t value) REQUIRES(bql);
  uint64_t read_isr(uint64_t offset, unsigned size) REQUIRES(bql);
  void ignore_write(uint64_t offset, uint64_t value, unsigned size) REQUIRES(bql);
  uint64_t read_device(uint64_t offset, unsigned size) REQUIRES(bql);
  void write_device(uint64_t offset, uint64_t value, unsigned size) REQUIRES(bql);
  uint64_t read_notify(uint64_t offset, unsigned size) REQUIRES(bql);
  void write_notify(uint64_t offset, uint64_t value, unsigned size) REQUIRES(bql);

  Result<void> check_function(const VirtioPciState& state) const REQUIRES(bql);
  void set_function(const VirtioPciState& state) REQUIRES(bql);

  uint16_t checked_vector(uint64_t value) const {
    return value < msix_.vectors() ? static_cast<uint16_t>(value) : kNoVector;
  }
  void interrupt(uint16_t vector, uint8_t isr_bit) noexcept;
  void send_message(uint16_t vector) noexcept;
  void update_bus_master() REQUIRES(bql);
  memory::MemoryRegion::Doorbell doorbell(unsigned queue) const;

  const std::unique_ptr<VirtioDevice> device_;
  MsiRouter& router_;
  MainLoop& loop_;
  Msix msix_;
  memory::MemoryRegion bar_;
  Window common_, isr_window_, device_window_, notify_;
  uint8_t indirect_capability_ = 0;

  uint32_t device_feature_select_ GUARDED_BY(bql) = 0;
  uint32_t driver_feature_select_ GUARDED_BY(bql) = 0;
  uint64_t driver_features_ GUARDED_BY(bql) = 0;
  uint16_t queue_select_ GUARDED_BY(bql) = 0;  // the driver's, not checked
  uint16_t config_vector_ GUARDED_BY(bql) = kNoVector;
  // Read by the queues' contexts.
  std::vector<std::atomic<uint16_t>> queue_vectors_;
  std::atomic<bool> msix_on_{false};
  std::atomic<bool> is_master_{false};
  std::atomic<bool> withheld_{false};  // messages, while it is none
  std::atomic<uint8_t> isr_{0};
  std::unique_ptr<Bh> intx_bh_;
};

}  // namespace rhea::devices
