// VirtioScsi: a host adapter for SCSI units. [virtio-1.2 5.6]
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "devices/scsi/scsi_bus.h"
#include "devices/virtio/saved_virtio.h"
#include "devices/virtio/virtio_scsi_events.h"
#include "devices/virtio/virtio_scsi_spec.h"

namespace rhea::devices {

/// What the user says about the adapter.
struct VirtioScsiConfig {
  std::string bus_name;             ///< "scsi0.0"
  std::vector<AioContext*> queues;  ///< the context of each request queue
  uint16_t queue_size = 256;
  uint32_t max_sectors = 0xffff;  ///< hints for the driver
  uint32_t cmd_per_lun = 128;
  bool indirect_desc = true, event_idx = true;
};

struct VirtioScsiState {
  static constexpr std::string_view kKind = "virtio-scsi-pci";
  static constexpr uint32_t kVersion = 1;
  uint32_t sense_size = kDefaultSenseSize;
  uint32_t cdb_size = kDefaultCdbSize;
  VirtioScsiEventsState events;
  ScsiBusState bus;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("sense_size", s.sense_size);
    v.field("cdb_size", s.cdb_size);
    v.field("events", s.events);
    v.field("bus", s.bus);
  }
};

/// The device. A request is a coroutine on its queue's context, from the ring to the used ring; so
/// is a task management function, on the context of the first request queue, where the control and
/// the event queue are. It has taken effect before the driver hears of it: it goes round the
/// contexts and has them show what was given back. [virtio-1.2 5.6.6.2]
///
/// Buffers of the event queue stay in its ring until there is something to say.
///
/// Thread: see VirtioDevice. Owns: its bus. Invariants: unrealized without units.
class VirtioScsi final : public SavedVirtio<VirtioScsiState>, private ScsiBusListener {
 public:
  VirtioScsi(std::string id, Host host, VirtioScsiConfig config);
  ~VirtioScsi() override;

  ScsiBus& bus() noexcept { return bus_; }
  const VirtioScsiConfig& config() const noexcept { return config_; }

  uint16_t virtio_id() const noexcept override { return 8; }
  uint32_t pci_class() const noexcept override { return 0x010000; }
  size_t config_size() const noexcept override { return sizeof(VirtioScsiConfigSpace); }
  void read_config(std::span<std::byte> config) override REQUIRES(bql);
  void write_config(size_t offset, std::span<const std::byte> data) override REQUIRES(bql);

  Result<void> realize() override REQUIRES(bql);
  void unrealize() override REQUIRES(bql);
  /// Its queues have heard of it when this returns: a drain waits for what units were asked for,
  /// and knows nothing of who asks.
  void machine_stopped() override REQUIRES(bql);

 private:
  struct Request;

  uint64_t device_features() const override REQUIRES(bql);
  void activated(uint64_t features) override REQUIRES(bql);
  void was_reset() override REQUIRES(bql);
  Served serve(VirtioQueue& queue) override;
  void stopping(VirtioQueue& queue) override;

  void unit_added(const ScsiAddress& address) override REQUIRES(bql);
  void unit_removed(const ScsiAddress& address) override REQUIRES(bql);
  void unit_changed(const ScsiAddress& address, const ScsiSense& sense) override;

  VirtioScsiState own_state() override REQUIRES(bql);
  Result<void> check_own(const VirtioScsiState& own) const override REQUIRES(bql);
  void set_own(const VirtioScsiState& own) override REQUIRES(bql);

  // Request queues.
  void handle_command(Co& co, VirtioQueue& queue);
  ScsiOutcome perform(Co& co, const VirtioScsiLun& lun, ScsiRequest& request);
  void respond(Request& request, VirtioScsiResponse response, const ScsiOutcome& outcome);

  // The control queue.
  void handle_control(Co& co, VirtioQueue& queue);
  void manage_tasks(Co& co, VirtioQueue& queue, VirtqElement& element);
  VirtioScsiResponse manage(Co& co, const VirtioScsiTaskManagement& what);
  void answer_notification(VirtioQueue& queue, VirtqElement& element);
  void refuse_control(VirtioQueue& queue, VirtqElement& element, uint32_t type);
  void show_completed(Co& co);

  // The event queue.
  Served serve_events(VirtioQueue& queue);
  void tell(VirtioQueue& queue, VirtqElement& element);

  const VirtioScsiConfig config_;
  ScsiBus bus_;
  VirtioScsiEvents events_;
  std::unique_ptr<Bh> events_bh_;  // has the event queue look again
  // The driver's, read by each request. relaxed: they order nothing
  std::atomic<uint32_t> sense_size_{kDefaultSenseSize}, cdb_size_{kDefaultCdbSize};
};

}  // namespace rhea::devices
