#include "devices/virtio/virtio_pci.h"

#include <algorithm>
#include <utility>

#include "util/check.h"
#include "util/log.h"

namespace rhea::devices {
namespace {

using Reg = VirtioCommonReg;

constexpr uint8_t kVendorCapability = 0x09;
constexpr uint8_t kIsrQueue = 1, kIsrConfig = 2;
constexpr memory::IoAccess kAccess{
    .min_size = 1, .max_size = 8, .impl_min = 1, .impl_max = 4, .unaligned = false};

/// Offsets of fields in a capability. [virtio-1.2 4.1.4]
enum class CapField : uint8_t {
  kLength = 2,
  kType = 3,
  kBar = 4,
  kOffset = 8,
  kSize = 12,
  kMore = 16
};

constexpr uint32_t low(uint64_t value) { return static_cast<uint32_t>(value); }
constexpr uint32_t high(uint64_t value) { return static_cast<uint32_t>(value >> 32); }

}  // namespace

enum class RegAccess : uint8_t { kReadOnly, kReadWrite };

struct VirtioPci::Register {
  VirtioCommonReg reg;
  uint8_t width;
  RegAccess access;
};

/// The spec's table; what is not exactly one of these is no access. [virtio-1.2 4.1.3.1]
const VirtioPci::Register* VirtioPci::find_register(uint64_t offset, unsigned size) {
  using enum RegAccess;
  static constexpr std::array kRegisters{
      Register{Reg::kDeviceFeatureSelect, 4, kReadWrite},
      Register{Reg::kDeviceFeature, 4, kReadOnly},
      Register{Reg::kDriverFeatureSelect, 4, kReadWrite},
      Register{Reg::kDriverFeature, 4, kReadWrite},
      Register{Reg::kConfigVector, 2, kReadWrite},
      Register{Reg::kNumQueues, 2, kReadOnly},
      Register{Reg::kStatus, 1, kReadWrite},
      Register{Reg::kConfigGeneration, 1, kReadOnly},
      Register{Reg::kQueueSelect, 2, kReadWrite},
      Register{Reg::kQueueSize, 2, kReadWrite},
      Register{Reg::kQueueVector, 2, kReadWrite},
      Register{Reg::kQueueEnable, 2, kReadWrite},
      Register{Reg::kQueueNotifyOffset, 2, kReadOnly},
      Register{Reg::kQueueDescriptors, 4, kReadWrite},
      Register{Reg::kQueueDescriptorsHigh, 4, kReadWrite},
      Register{Reg::kQueueDriver, 4, kReadWrite},
      Register{Reg::kQueueDriverHigh, 4, kReadWrite},
      Register{Reg::kQueueDevice, 4, kReadWrite},
      Register{Reg::kQueueDeviceHigh, 4, kReadWrite},
      Register{Reg::kQueueNotifyData, 2, kReadOnly},
      Register{Reg::kQueueReset, 2, kReadWrite},
  };
  const auto row = std::ranges::find_if(kRegisters, [&](const Register& r) {
    return std::to_underlying(r.reg) == offset && r.width == size;
  });
  return row != kRegisters.end() ? row : nullptr;
}

VirtioPci::Window::Window(VirtioPci& owner, const char* name, Read reader, Write writer)
    : pci(owner), read(reader), write(writer), region(name, kPage, *this, kAccess) {}

uint64_t VirtioPci::Window::io_read(uint64_t offset, unsigned size) {
  bql.assert_held();
  const uint64_t value = (pci.*read)(offset, size);
  RHEA_TRACE(kDevices, "virtio_read id={} in={} offset={:#x} size={} value={:#x}", pci.id(),
             region.name(), offset, size, value);
  return value;
}

void VirtioPci::Window::io_write(uint64_t offset, uint64_t value, unsigned size) {
  bql.assert_held();
  RHEA_TRACE(kDevices, "virtio_write id={} in={} offset={:#x} size={} value={:#x}", pci.id(),
             region.name(), offset, size, value);
  (pci.*write)(offset, value, size);
}

VirtioPci::VirtioPci(std::string id, std::unique_ptr<VirtioDevice> device, MsiRouter& router,
                     MainLoop& loop)
    : PciDevice(std::move(id),
                PciIdentity{.vendor = kVendor,
                            .device = static_cast<uint16_t>(kFirstDevice + device->virtio_id()),
                            .revision = 1,
                            .class_code = device->pci_class(),
                            .subsystem_vendor = kVendor,
                            .subsystem = 0x1100,
                            .interrupt_pin = 1}),
      device_(std::move(device)),
      router_(router),
      loop_(loop),
      msix_(device_->queues() + 1, errors()),
      bar_("virtio-pci", 4 * kPage),
      common_(*this, "virtio-common", &VirtioPci::read_common, &VirtioPci::write_common),
      isr_window_(*this, "virtio-isr", &VirtioPci::read_isr, &VirtioPci::ignore_write),
      device_window_(*this, "virtio-device", &VirtioPci::read_device, &VirtioPci::write_device),
      notify_(*this, "virtio-notify", &VirtioPci::read_notify, &VirtioPci::write_notify),
      queue_vectors_(device_->queues()) {
  for (auto& vector : queue_vectors_) vector = kNoVector;
  device_->attach(*this);
}

VirtioPci::~VirtioPci() = default;

uint8_t VirtioPci::add_capability(Structure structure, uint8_t size, uint32_t offset,
                                  uint32_t length) {
  bql.assert_held();
  const uint8_t at = config().add_capability(kVendorCapability, size);
  const auto field = [at](CapField f) { return static_cast<uint8_t>(at + std::to_underlying(f)); };
  config().define(field(CapField::kLength), size, 1);
  config().define(field(CapField::kType), std::to_underlying(structure), 1);
  config().define(field(CapField::kBar), kBar, 1);
  config().define(field(CapField::kOffset), offset, 4);
  config().define(field(CapField::kSize), length, 4);
  return at;
}

void VirtioPci::add_capabilities() {
  bql.assert_held();
  add_capability(Structure::kCommon, 16, 0, kPage);
  add_capability(Structure::kIsr, 16, kPage, kPage);
  add_capability(Structure::kDevice, 16, 2 * kPage, kPage);
  const uint8_t notify = add_capability(Structure::kNotify, 20, 3 * kPage, kPage);
  config().define(static_cast<uint8_t>(notify + std::to_underlying(CapField::kMore)),
                  kNotifyMultiplier, 4);
  // Where, how much and what: the driver's to write. [virtio-1.2 4.1.4.9]
  indirect_capability_ = add_capability(Structure::kPciConfig, 20, 0, 0);
  const auto writable = [this](CapField f, uint32_t mask, unsigned size) REQUIRES(bql) {
    config().allow_writes(static_cast<uint8_t>(indirect_capability_ + std::to_underlying(f)), mask,
                          size);
  };
  config().define(static_cast<uint8_t>(indirect_capability_ + std::to_underlying(CapField::kBar)),
                  0, 1);
  writable(CapField::kBar, 0xff, 1);
  writable(CapField::kOffset, 0xffff'ffff, 4);
  writable(CapField::kSize, 0xffff'ffff, 4);
  writable(CapField::kMore, 0xffff'ffff, 4);
  msix_.define(config(), kMsixBar);
}

Result<void> VirtioPci::do_realize() {
  TRY(device_->realize());
  device_->pause();  // until the driver makes it a bus master
  TRY(msix_.realize(router_));
  intx_bh_ = std::make_unique<Bh>(loop_.service(), [this] {
    bql.assert_held();
    set_intx(isr_.load() != 0);
  });
  add_capabilities();
  own(bar_);
  own(msix_.region());
  uint64_t offset = 0;
  for (Window* window : {&common_, &isr_window_, &device_window_, &notify_}) {
    own(window->region);
    bar_.add(window->region, offset);
    offset += kPage;
  }
  for (unsigned i = 0; i < device_->queues(); ++i) TRY(notify_.region.add_doorbell(doorbell(i)));
  add_bar(kMsixBar, BarKind::kMemory32, msix_.region());
  add_bar(kBar, BarKind::kMemory64Prefetchable, bar_);
  return ok();
}

void VirtioPci::do_unrealize() {
  for (unsigned i = 0; i < device_->queues(); ++i) notify_.region.remove_doorbell(doorbell(i));
  device_->unrealize();
  intx_bh_.reset();
  msix_.unrealize();
}

memory::MemoryRegion::Doorbell VirtioPci::doorbell(unsigned queue) const {
  return {.offset = uint64_t{kNotifyMultiplier} * queue,
          .size_bytes = 0,
          .match = {},
          .fd = device_->kick_fd(queue)};
}

void VirtioPci::reset_function() {
  device_->reset_now();
  update_bus_master();
  msix_.reset();
  msix_on_ = false;
  device_feature_select_ = driver_feature_select_ = 0;
  queue_select_ = 0;
}

void VirtioPci::reset_completed() {
  if (device_->status() != 0) return;  // a queue's
  driver_features_ = 0;
  config_vector_ = kNoVector;
  for (auto& vector : queue_vectors_) vector = kNoVector;
  isr_ = 0;
  set_intx(false);
}

void VirtioPci::queue_interrupt(unsigned queue) noexcept {
  interrupt(queue_vectors_[queue].load(std::memory_order_relaxed), kIsrQueue);
}

void VirtioPci::config_interrupt() { interrupt(config_vector_, kIsrConfig); }

/// A message of a change may have been under way in the host, as a queue's. Whether it was is not
/// known: a driver with messages does not read the register that would tell.
void VirtioPci::resume_loaded() {
  device_->resume_loaded();
  if (msix_on_ && (isr_ & kIsrConfig) != 0) config_interrupt();
}

/// A function that is no bus master reads no ring and sends no message. [PCI-3.0 6.2.2] What it has
/// taken before comes to its end: whoever switches the bit off resets the device first.
void VirtioPci::update_bus_master() {
  const bool is_master = config().command(PciCommand::kBusMaster);
  if (is_master == is_master_.load()) return;
  is_master_ = is_master;
  if (!is_master) return device_->pause();
  device_->resume();
  if (!withheld_.exchange(false)) return;
  // One too many harms no driver; whose they were is not worth the remembering.
  for (const auto& vector : queue_vectors_) send_message(vector);
  send_message(config_vector_);
}

void VirtioPci::send_message(uint16_t vector) noexcept {
  if (MsiVector* target = msix_.vector(vector)) target->signal();
}

/// Any thread. [virtio-1.2 4.1.4.5.1, 4.1.5.1.2]
void VirtioPci::interrupt(uint16_t vector, uint8_t isr_bit) noexcept {
  // relaxed: a driver that switches to MSI-X has no requests under way
  if (!msix_on_.load(std::memory_order_relaxed)) {
    isr_.fetch_or(isr_bit);
    intx_bh_->schedule();
    return;
  }
  // A change of the configuration shows there whatever tells of it.
  if (isr_bit == kIsrConfig) isr_.fetch_or(isr_bit);
  if (!is_master_.load()) {
    withheld_ = true;
    // Either this look sees the bit, or update_bus_master() sees what was withheld.
    if (!is_master_.load()) return;
  }
  send_message(vector);
}

void VirtioPci::config_written(uint8_t offset, unsigned size) {
  update_bus_master();
  msix_.config_written(config());
  msix_on_.store(msix_.enabled(), std::memory_order_relaxed);
  const unsigned data = indirect_capability_ + std::to_underlying(CapField::kMore);
  if (offset < data || offset + size > data + 4) return;
  if (const auto access = indirect_access()) {
    const uint32_t value = config().read(static_cast<uint8_t>(data), access->size);
    access->window->io_write(access->offset, value, access->size);
  }
}

void VirtioPci::config_reading(uint8_t offset, unsigned size) {
  const unsigned data = indirect_capability_ + std::to_underlying(CapField::kMore);
  if (offset < data || offset + size > data + 4) return;
  if (const auto access = indirect_access()) {
    const uint64_t value = access->window->io_read(access->offset, access->size);
    config().write(static_cast<uint8_t>(data), low(value), access->size);
  }
}

std::optional<VirtioPci::Indirect> VirtioPci::indirect_access() {
  const auto field = [this](CapField f, unsigned size) REQUIRES(bql) {
    return config().read(static_cast<uint8_t>(indirect_capability_ + std::to_underlying(f)), size);
  };
  const uint32_t offset = field(CapField::kOffset, 4);
  const uint32_t size = field(CapField::kSize, 4);
  // [virtio-1.2 4.1.4.9.2]
  const bool legal = (size == 1 || size == 2 || size == 4) && offset % size == 0 &&
                     field(CapField::kBar, 1) == kBar && offset < 4 * kPage;
  if (!legal) {
    errors().report(GuestError::kBadAccess, offset, size);
    return std::nullopt;
  }
  const std::array<Window*, 4> windows{&common_, &isr_window_, &device_window_, &notify_};
  return Indirect{windows[offset / kPage], offset % kPage, size};
}

uint64_t VirtioPci::read_common(uint64_t offset, unsigned size) {
  const Register* row = find_register(offset, size);
  if (row == nullptr) {
    errors().report(GuestError::kBadAccess, offset, size);
    return ~uint64_t{0};
  }
  switch (row->reg) {
    case Reg::kDeviceFeatureSelect:
      return device_feature_select_;
    case Reg::kDeviceFeature: {
      const uint64_t features = device_->offered_features();
      if (device_feature_select_ > 1) return 0;
      return device_feature_select_ == 0 ? low(features) : high(features);
    }
    case Reg::kDriverFeatureSelect:
      return driver_feature_select_;
    case Reg::kDriverFeature:
      if (driver_feature_select_ > 1) return 0;
      return driver_feature_select_ == 0 ? low(driver_features_) : high(driver_features_);
    case Reg::kConfigVector:
      return config_vector_;
    case Reg::kNumQueues:
      return device_->queues();
    case Reg::kStatus:
      return device_->status();
    case Reg::kConfigGeneration:
      return device_->config_generation();
    case Reg::kQueueSelect:
      return queue_select_;
    default:
      return read_queue(row->reg);
  }
}

uint32_t VirtioPci::read_queue(Reg reg) {
  // A queue that does not exist has size 0. [virtio-1.2 4.1.4.3.1]
  if (queue_select_ >= device_->queues()) return 0;
  const VirtQueueConfig& queue = device_->queue_config(queue_select_);
  switch (reg) {
    case Reg::kQueueSize:
      return queue.size;
    case Reg::kQueueVector:
      return queue_vectors_[queue_select_];
    case Reg::kQueueEnable:
      return device_->queue_enabled(queue_select_) ? 1 : 0;
    case Reg::kQueueNotifyOffset:
      return queue_select_;
    case Reg::kQueueDescriptors:
      return low(queue.descriptors);
    case Reg::kQueueDescriptorsHigh:
      return high(queue.descriptors);
    case Reg::kQueueDriver:
      return low(queue.available);
    case Reg::kQueueDriverHigh:
      return high(queue.available);
    case Reg::kQueueDevice:
      return low(queue.used);
    case Reg::kQueueDeviceHigh:
      return high(queue.used);
    case Reg::kQueueReset:
      return device_->queue_resetting(queue_select_) ? 1 : 0;
    default:
      return 0;  // kQueueNotifyData: not offered
  }
}

void VirtioPci::write_common(uint64_t offset, uint64_t value, unsigned size) {
  const Register* row = find_register(offset, size);
  if (row == nullptr) return errors().report(GuestError::kBadAccess, offset, size);
  if (row->access == RegAccess::kReadOnly) {
    return errors().report(GuestError::kReadOnly, offset, value);
  }
  switch (row->reg) {
    case Reg::kDeviceFeatureSelect:
      device_feature_select_ = low(value);
      break;
    case Reg::kDriverFeatureSelect:
      driver_feature_select_ = low(value);
      break;
    case Reg::kDriverFeature: {
      if (driver_feature_select_ > 1) return;
      const unsigned shift = driver_feature_select_ == 0 ? 0 : 32;
      driver_features_ &= ~(uint64_t{0xffff'ffff} << shift);
      driver_features_ |= uint64_t{low(value)} << shift;
      device_->set_driver_features(driver_features_);
      driver_features_ = device_->driver_features();
      break;
    }
    case Reg::kConfigVector:
      config_vector_ = checked_vector(value);
      break;
    case Reg::kStatus:
      device_->set_status(static_cast<uint8_t>(value));
      break;
    case Reg::kQueueSelect:
      queue_select_ = static_cast<uint16_t>(value);
      break;
    default:
      write_queue(row->reg, low(value));
  }
}

void VirtioPci::write_queue(Reg reg, uint32_t value) {
  if (queue_select_ >= device_->queues()) {
    return errors().report(GuestError::kBadValue, std::to_underlying(reg), queue_select_);
  }
  using Ring = VirtioDevice::Ring;
  switch (reg) {
    case Reg::kQueueSize:
      return device_->set_queue_size(queue_select_, static_cast<uint16_t>(value));
    case Reg::kQueueVector:
      queue_vectors_[queue_select_] = checked_vector(value);
      return;
    case Reg::kQueueEnable:
      // [virtio-1.2 4.1.4.3.2]
      if (value != 1) return errors().report(GuestError::kBadValue, 0x1c, value);
      return device_->enable_queue(queue_select_);
    case Reg::kQueueDescriptors:
    case Reg::kQueueDescriptorsHigh:
      return write_address(Ring::kDescriptors, &VirtQueueConfig::descriptors,
                           reg == Reg::kQueueDescriptorsHigh, value);
    case Reg::kQueueDriver:
    case Reg::kQueueDriverHigh:
      return write_address(Ring::kAvailable, &VirtQueueConfig::available,
                           reg == Reg::kQueueDriverHigh, value);
    case Reg::kQueueDevice:
    case Reg::kQueueDeviceHigh:
      return write_address(Ring::kUsed, &VirtQueueConfig::used, reg == Reg::kQueueDeviceHigh,
                           value);
    case Reg::kQueueReset:
      if (value != 1) return errors().report(GuestError::kBadValue, 0x3a, value);
      return device_->reset_queue(queue_select_);
    default:
      return;
  }
}

void VirtioPci::write_address(VirtioDevice::Ring ring, uint64_t VirtQueueConfig::* field,
                              bool is_high, uint32_t value) {
  const uint64_t before = device_->queue_config(queue_select_).*field;
  const uint64_t address =
      is_high ? uint64_t{value} << 32 | low(before) : uint64_t{high(before)} << 32 | value;
  device_->set_queue_address(queue_select_, ring, address);
}

uint64_t VirtioPci::read_isr(uint64_t offset, unsigned) {
  if (offset != 0) return 0;
  // Reading clears it and lowers the wire. [virtio-1.2 4.1.4.5]
  const uint8_t isr = isr_.exchange(0);
  set_intx(false);
  return isr;
}

void VirtioPci::ignore_write(uint64_t offset, uint64_t value, unsigned) {
  errors().report(GuestError::kReadOnly, offset, value);
}

uint64_t VirtioPci::read_device(uint64_t offset, unsigned size) {
  std::vector<std::byte> bytes(device_->config_size());
  device_->read_config(bytes);
  uint64_t value = 0;
  for (unsigned i = 0; i < size && offset + i < bytes.size(); ++i) {
    value |= std::to_integer<uint64_t>(bytes[offset + i]) << (8 * i);
  }
  return value;
}

void VirtioPci::write_device(uint64_t offset, uint64_t value, unsigned size) {
  const size_t limit = device_->config_size();
  if (offset >= limit || size > limit - offset) {
    return errors().report(GuestError::kBadAccess, offset, size);
  }
  std::array<std::byte, 8> bytes{};
  for (unsigned i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(value >> (8 * i));
  device_->write_config(offset, std::span(bytes).first(size));
}

uint64_t VirtioPci::read_notify(uint64_t, unsigned) { return 0; }

/// Only where the doorbell itself did not take the store: the configuration access, or an offset
/// that is no queue's.
void VirtioPci::write_notify(uint64_t offset, uint64_t value, unsigned) {
  const uint64_t queue = offset / kNotifyMultiplier;
  if (offset % kNotifyMultiplier != 0 || queue >= device_->queues()) {
    return errors().report(GuestError::kBadAccess, offset, value);
  }
  signal_eventfd(device_->kick_fd(static_cast<unsigned>(queue)));
}

}  // namespace rhea::devices
