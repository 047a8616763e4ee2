// Source: sends a running machine away.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "migration/address.h"
#include "migration/bandwidth_limit.h"
#include "migration/cancel.h"
#include "migration/connect.h"
#include "migration/convergence.h"
#include "migration/frame_link.h"
#include "migration/handover.h"
#include "migration/machine.h"
#include "migration/main_calls.h"
#include "migration/messages.h"
#include "migration/ram_scan.h"
#include "migration/ram_sender.h"
#include "migration/status.h"
#include "util/clock.h"
#include "util/mutex.h"
#include "util/one_shot_event.h"
#include "util/thread.h"

namespace rhea::migration {

/// What becomes of it, told on main with the BQL held.
class SourceObserver {
 public:
  virtual ~SourceObserver() = default;
  virtual void source_status(Status status) REQUIRES(bql) = 0;
  virtual void pass_begins(uint64_t number) REQUIRES(bql) = 0;
};

struct SourceOptions {
  Nanoseconds downtime_limit = std::chrono::milliseconds(300);
  bool validate_uuid = false;  ///< the destination must have the same, whatever its own wish
  bool pause_before_switchover = false;
  AutoConverge auto_converge = AutoConverge::kNo;
  ThrottleParameters throttle;
  RamOptions ram;
  /// For how long the locks are tried again after the destination is lost.
  Nanoseconds retake_patience = std::chrono::seconds(5);
  /// For how long a destination may let it wait that is told why there will be no machine.
  std::chrono::milliseconds farewell_patience = std::chrono::seconds(1);
};

/// Copies RAM while the machine runs, pass after pass, until what is left can be sent within the
/// downtime limit; then stops it, sends the rest, and hands it over (handover.h). With
/// auto_converge the machine is throttled meanwhile if it writes too much (convergence.h).
///
/// Until the hand-over nothing is lost by a failure: the machine goes on here.
///
/// Thread: made, cancelled and destroyed on main with the BQL; does its work on a thread of its
/// own, which has main do what only main may. progress() from any thread. Owns: the thread, the
/// channel. Invariants: the observer is told each change of the status in order, kSetup first,
/// within the call of start(). The status that is_over() comes last. The machine has its
/// full speed once it was stopped, and before the end is told.
class Source {
 public:
  /// All outlive it.
  struct Parts {
    AioContext& service;
    Machine& machine;
    SourceObserver& observer;
    const Clock& clock;
    std::shared_ptr<BandwidthLimit> bandwidth;
  };
  /// Errors: the machine cannot be described, or there is no thread. Nothing was told then.
  static Result<std::unique_ptr<Source>> start(const Parts& parts, const Address& address,
                                               const SourceOptions& options, TakeFd take_fd)
      REQUIRES(bql);
  /// Ends it if it goes on; waits for its thread, which waits for no peer then. A machine that was
  /// stopped for it stays so.
  ~Source();
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  /// Returns at once; kCancelled follows, or, if the machine is the destination's already, what
  /// would have without it.
  void cancel() REQUIRES(bql);
  /// Out of kPreSwitchover. Errors: kBusy, it is not in it.
  Result<void> go_on() REQUIRES(bql);
  void set_downtime_limit(Nanoseconds limit) noexcept {
    // relaxed: a number by itself
    downtime_limit_.store(limit.count(), std::memory_order_relaxed);
  }
  /// For the passes to come.
  void set_throttle(const ThrottleParameters& parameters);

  Progress progress() const;

 private:
  Source(const Parts& parts, const Address& address, const SourceOptions& options);

  void run();
  Result<void> send_all();
  Result<void> set_up();
  Result<void> connect();
  Result<void> greet();
  Result<void> open_channels();
  Error their_reason(Error ours);
  Result<void> copy_while_running();
  Result<void> send_pass();
  Result<void> hear_refusal();
  Result<bool> converged(const Pass& pass);
  void throttle(unsigned percent) REQUIRES(bql);
  Result<void> stop_and_send_rest();
  Result<void> wait_for_continue();
  Result<std::vector<DeviceState>> save_devices(End& end);
  Result<void> send_devices(const std::vector<DeviceState>& states, End end);
  Result<void> hand_over(SourceEvent event, Error& why);
  SourceEvent next_event(Error& why);
  bool cancelled_before_ack();
  Result<void> release_locks();
  SourceEvent retake_locks(Error& why);
  Result<void> leave();
  Result<void> leave_one_way();
  Result<void> commit();
  void say_why(const Error& error);
  void go_on_or_stay() REQUIRES(bql);
  void finish(Result<void> result);
  Result<void> check_not_cancelled() const;
  void set_status(Status status);
  Nanoseconds lap();
  void count_bytes(Progress& p) const;
  uint64_t sent_bytes() const;

  const Parts parts_;
  const Address address_;
  const SourceOptions options_;
  TakeFd take_fd_;
  std::shared_ptr<Cancel> cancel_;
  MainCalls main_;
  std::unique_ptr<Channel> channel_;
  std::unique_ptr<FrameLink> link_;
  std::unique_ptr<RamScan> scan_;
  std::unique_ptr<RamSender> ram_;
  std::atomic<RamSender*> shared_ram_ = nullptr;  // the same, for other threads
  Hello hello_;
  SourceState state_ = SourceState::kSent;
  bool logging_ = false;
  bool stopped_ = false;
  bool too_late_to_cancel_ GUARDED_BY(bql) = false;  // ACK is in
  Nanoseconds began_{0}, lap_began_{0}, stopped_at_{0};
  std::atomic<int64_t> downtime_limit_;
  Guarded<ThrottleParameters> throttle_;
  Convergence convergence_;
  std::atomic<uint64_t> main_bytes_ = 0;
  OneShotEvent go_on_;
  Guarded<Progress> progress_;
  Thread thread_;
};

}  // namespace rhea::migration
