// VirtioDevice: what every virtio device is, apart from the bus it sits on.
//
// Two sides meet here. The driver's registers (status, features, queue addresses) are the
// transport's, under the BQL. The queues run on event loops of their own: each on the home thread
// of its context, with no lock. Between the two go posts and acknowledgements:
//
//   DRIVER_OK     main/vCPU posts "start" to each queue's context
//   reset         latched: status goes on reading non-zero, other stores are ignored, until each
//                 context has stopped its queues and their requests have ended; then main completes
//                 it (G26). A vCPU never waits.
//   drain         main posts "pause"; a drain polls until all have paused (G17)
//   leave         main posts "pause" and "report"; a context tells main when nothing is under way
//   move          main pauses, waits for what was taken, and posts "leave" to the old contexts,
//                 then "enter" to the new ones
//   broken queue  the context posts "needs reset" to main
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "devices/device.h"
#include "devices/guest_error.h"
#include "devices/virtio/virtio_queue.h"
#include "devices/virtio/virtio_state.h"
#include "memory/guest_memory.h"
#include "util/aio_context.h"
#include "util/bql.h"
#include "util/error.h"
#include "util/main_loop.h"

namespace rhea::devices {

/// The bus's side, as the device sees it.
class VirtioTransport {
 public:
  virtual ~VirtioTransport() = default;
  /// Interrupts the driver for a queue. Any thread, no lock.
  virtual void queue_interrupt(unsigned queue) noexcept = 0;
  /// Tells the driver that the device's configuration has changed, or that it needs a reset.
  virtual void config_interrupt() REQUIRES(bql) = 0;
  /// A reset of the device (or of one queue) has been completed.
  virtual void reset_completed() REQUIRES(bql) {}
};

/// A device of any transport.
///
/// Thread: BQL, but for what the queues' contexts run.
/// Owns: its queues. Invariants: unrealized with no request under way.
/// Errors: what the driver does wrong is reported and answered as the specification says; a broken
/// ring sets DEVICE_NEEDS_RESET [virtio-1.2 2.1.2].
class VirtioDevice {
 public:
  virtual ~VirtioDevice();
  VirtioDevice(const VirtioDevice&) = delete;
  VirtioDevice& operator=(const VirtioDevice&) = delete;

  struct Host {
    MainLoop& loop;
    memory::GuestMemory memory;
  };

  // What kind it is.
  virtual uint16_t virtio_id() const noexcept = 0;  ///< [virtio-1.2 5]
  virtual uint32_t pci_class() const noexcept = 0;
  const std::string& id() const noexcept { return id_; }
  unsigned queues() const noexcept { return static_cast<unsigned>(queues_.size()); }
  VirtioQueue& queue(unsigned index) { return *queues_[index]; }
  int kick_fd(unsigned index) const noexcept { return queues_[index]->kick_.get(); }

  // The transport's calls: the registers of [virtio-1.2 4.1.4.3].
  void attach(VirtioTransport& transport) { transport_ = &transport; }
  virtual Result<void> realize() REQUIRES(bql);
  /// Stops for good; waits on main for what is under way. Main, at the top.
  virtual void unrealize() REQUIRES(bql);
  uint64_t offered_features() const REQUIRES(bql);
  uint64_t driver_features() const REQUIRES(bql) { return driver_features_; }
  void set_driver_features(uint64_t features) REQUIRES(bql);
  uint8_t status() const REQUIRES(bql);
  void set_status(uint8_t status) REQUIRES(bql);
  uint8_t config_generation() const REQUIRES(bql) { return generation_; }
  uint16_t queue_size(unsigned queue) const REQUIRES(bql);
  bool queue_enabled(unsigned queue) const REQUIRES(bql);
  bool queue_resetting(unsigned queue) const REQUIRES(bql);
  const VirtQueueConfig& queue_config(unsigned queue) const REQUIRES(bql);
  void set_queue_size(unsigned queue, uint16_t size) REQUIRES(bql);
  /// Which of the three ring addresses.
  enum class Ring : uint8_t { kDescriptors, kAvailable, kUsed };
  void set_queue_address(unsigned queue, Ring ring, uint64_t address) REQUIRES(bql);
  void enable_queue(unsigned queue) REQUIRES(bql);
  void reset_queue(unsigned queue) REQUIRES(bql);
  /// Device-specific configuration; outside it reads are zeros and stores are dropped.
  virtual size_t config_size() const noexcept = 0;
  virtual void read_config(std::span<std::byte> config) REQUIRES(bql) = 0;
  virtual void write_config(size_t offset, std::span<const std::byte> data) REQUIRES(bql) = 0;

  /// The machine's reset line, on main: completed, or latched if a request is stuck for longer than
  /// kResetPatience, before it returns.
  void reset_now() REQUIRES(bql);
  static constexpr Nanoseconds kResetPatience = std::chrono::seconds(5);

  // No more requests are taken, for a drain or while the machine is stopped; pairs nest. Main.
  void pause() REQUIRES(bql);
  void resume() REQUIRES(bql);
  /// Whether a queue's context has not heard of a pause yet.
  bool pausing() const noexcept { return pauses_.load(std::memory_order_acquire) != 0; }
  /// Whether, besides, requests are under way that were taken before.
  bool busy() const noexcept;
  /// Takes no more, and waits until what was taken has ended; release() lets it go on. Nothing is
  /// drained: a request that a drain holds back would stay where it is. Main, at the top.
  /// Errors: kTimeout, a request does not end; kBusy, one waits for the machine to go on. It goes
  /// on by itself then.
  Result<void> hold() REQUIRES(bql);
  void release() REQUIRES(bql) { resume(); }
  static constexpr Nanoseconds kHoldPatience = std::chrono::seconds(5);
  /// Moves the queues of a device that is held to these contexts, one for each, under a driver that
  /// runs. Main, at the top.
  void move_queues(std::span<AioContext* const> contexts) REQUIRES(bql);

  // Leaving a machine that runs: what is under way ends first, and nobody waits for that. Main, at
  // the top.
  /// Takes no more. From then on `look` is called, on main, whenever idle() may have become true.
  void prepare_to_leave(std::function<void()> look) REQUIRES(bql);
  /// Whether nothing is under way, or nothing but requests that wait for the machine to go on.
  virtual bool idle() const REQUIRES(bql);
  /// Gives up what waits, and lets go of what was taken on realize() that others may want:
  /// unrealize() will not wait. Once idle(). Errors: kTimeout, a request began again and does not
  /// end within kLeavePatience; it has been reset then, or will have been once that ends.
  virtual Result<void> leave() REQUIRES(bql);
  static constexpr Nanoseconds kLeavePatience = std::chrono::seconds(1);
  /// After prepare_to_leave(), and unless leave() went well: it stays, and goes on.
  void stay() REQUIRES(bql);

  /// The machine stops: takes nothing from the rings until it runs again.
  virtual void machine_stopped() REQUIRES(bql) { pause(); }
  virtual void machine_runs() REQUIRES(bql) { resume(); }

  // Migration; see saved_virtio.h. Main, at the top; machine stopped, block layer drained.
  virtual StateFormat state_format() const = 0;
  virtual std::string settings() const REQUIRES(bql);  ///< see Device; at any time
  virtual std::vector<uint8_t> save(VirtioPciState function) REQUIRES(bql) = 0;
  virtual Result<VirtioLoaded> decode(std::span<const uint8_t> bytes) REQUIRES(bql) = 0;
  /// The driver's progress and the rings.
  VirtioDeviceState driver_state() REQUIRES(bql);
  Result<void> check_driver_state(const VirtioDeviceState& state) const REQUIRES(bql);
  /// Rings go on where they were, once resume_loaded() says that the machine runs.
  void set_driver_state(const VirtioDeviceState& state) REQUIRES(bql);
  void resume_loaded() REQUIRES(bql);

  GuestErrors& errors() noexcept { return errors_; }

 protected:
  VirtioDevice(std::string id, Host host) : host_(host), id_(std::move(id)), errors_(id_) {}

  /// Before realize(): `size` is the largest that the driver may choose.
  void add_queue(AioContext& context, uint16_t size);
  virtual uint64_t device_features() const REQUIRES(bql) = 0;
  /// The driver may go: FEATURES_OK was accepted and DRIVER_OK is set. Before any queue starts.
  virtual void activated(uint64_t /*features*/) REQUIRES(bql) {}
  /// All queues have stopped: back to the state after power-on.
  virtual void was_reset() REQUIRES(bql) {}
  enum class Served : uint8_t {
    kAll,      ///< took what there was
    kStarved,  ///< had to leave some: called again when a request of this queue has ended, or by
               ///< serve_soon()
  };
  /// There may be requests in `queue`: take what there is. The queue's context; not re-entered.
  /// Runs with the driver's notifications off.
  virtual Served serve(VirtioQueue& queue) = 0;
  /// Has the queue's context serve it, if it runs: what it was starved of is there. Main, at the
  /// top; the device is realized.
  void serve_soon(VirtioQueue& queue) REQUIRES(bql);
  /// The queue is to stop: let go what is parked. The queue's context.
  virtual void stopping(VirtioQueue& /*queue*/) {}
  /// The configuration as read_config() shows it has changed.
  void config_changed() REQUIRES(bql);
  /// The driver has done what can not be answered. Any thread.
  void set_broken(const char* reason);

  memory::GuestMemory memory() const { return host_.memory; }
  MainLoop& loop() noexcept { return host_.loop; }

 private:
  friend class VirtioQueue;
  void start_queue(VirtioQueue& queue) REQUIRES(bql);
  /// Asks the queue's context to stop; the last to have stopped completes the reset.
  void stop_queue(VirtioQueue& queue) REQUIRES(bql);
  void begin_reset() REQUIRES(bql);
  bool stops_pending() const noexcept { return stops_.load(std::memory_order_acquire) != 0; }
  void complete_resets() REQUIRES(bql);
  VirtioQueue* configurable(unsigned queue, uint64_t value) REQUIRES(bql);
  void forget_queue(VirtioQueue& queue) REQUIRES(bql);
  bool accept_features() REQUIRES(bql);
  void serve_main() REQUIRES(bql);
  void post_pause(bool paused) REQUIRES(bql);
  void post_reports(bool reports) REQUIRES(bql);
  void on_contexts(const std::function<void(VirtioQueue&)>& body) REQUIRES(bql);
  Result<void> wait_until_quiet() REQUIRES(bql);

  // On the queue's context.
  struct Start {
    VirtQueueConfig config;
    VirtQueue::Features features;
    bool paused;
    bool resumes = false;  // where another device stopped
    uint16_t next_available = 0;
    std::vector<uint16_t> again{};
  };
  void post_start(VirtioQueue& queue, Start start) REQUIRES(bql);
  static void rings_state(const VirtioQueue& queue, VirtioQueueState& state);
  Result<void> check_queue_state(const VirtioDeviceState& state, const VirtioQueue& queue) const
      REQUIRES(bql);
  void start_here(VirtioQueue& queue, const Start& start);
  void enter_here(VirtioQueue& queue);
  void leave_here(VirtioQueue& queue);
  void stop_here(VirtioQueue& queue);
  void finish_stop(VirtioQueue& queue);
  void pause_here(VirtioQueue& queue, bool paused);
  static void pause_watch(VirtioQueue& queue, bool paused);
  void run(VirtioQueue& queue);
  void show(VirtioQueue& queue);
  void tell_again(VirtioQueue& queue);
  void after(VirtioQueue& queue);
  void request_ended(VirtioQueue& queue);

  const Host host_;
  const std::string id_;
  GuestErrors errors_;
  VirtioTransport* transport_ = nullptr;
  std::vector<std::unique_ptr<VirtioQueue>> queues_;

  uint8_t status_ GUARDED_BY(bql) = 0;
  uint64_t driver_features_ GUARDED_BY(bql) = 0;
  uint8_t generation_ GUARDED_BY(bql) = 0;
  bool resetting_ GUARDED_BY(bql) = false;
  bool realized_ GUARDED_BY(bql) = false;
  unsigned paused_ GUARDED_BY(bql) = 0;
  bool loaded_ GUARDED_BY(bql) = false;  // it has not run since; one of paused_
  std::atomic<unsigned> stops_{0};       // asked for and not acknowledged
  std::atomic<unsigned> pauses_{0};      // likewise
  std::atomic<const char*> broken_{nullptr};
  std::function<void()> look_ GUARDED_BY(bql);  // set while it prepares to leave
  std::unique_ptr<Bh> service_bh_;              // completes resets, tells of a broken driver
};

}  // namespace rhea::devices
