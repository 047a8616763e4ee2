// Target: receives a machine.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "migration/cancel.h"
#include "migration/channel.h"
#include "migration/frame_link.h"
#include "migration/handover.h"
#include "migration/machine.h"
#include "migration/main_calls.h"
#include "migration/messages.h"
#include "migration/ram_receiver.h"
#include "migration/status.h"
#include "util/mutex.h"
#include "util/thread.h"

namespace rhea::migration {

/// What becomes of it, told on main with the BQL held.
class TargetObserver {
 public:
  virtual ~TargetObserver() = default;
  /// kActive: the machine fits, and comes.
  virtual void target_status(Status status) REQUIRES(bql) = 0;
  /// The last that is told. kRunning, kArrived: it is here. kUnconfirmed: it is here, and stays
  /// paused. kGone: nothing of use is here. `why`: of the latter two.
  virtual void target_ended(TargetState state, const std::optional<Error>& why) REQUIRES(bql) = 0;
};

struct TargetOptions {
  CompareUuid uuid = CompareUuid::kNo;
  bool late_block_activate = false;  ///< take the images' locks when it is to run, not before
};

/// Receives RAM straight into its place, collects the devices' states, and takes the machine over
/// when all of it is here and valid (handover.h). What comes is checked as any stranger's bytes.
///
/// Thread: made and destroyed on main with the BQL; does its work on a thread of its own, which has
/// main do what only main may. Owns: the thread, the channel.
class Target {
 public:
  /// All outlive it.
  struct Parts {
    AioContext& service;
    Machine& machine;
    TargetObserver& observer;
  };
  /// `cancel`: the channel's. Errors: there is no thread.
  static Result<std::unique_ptr<Target>> start(const Parts& parts, std::unique_ptr<Channel> channel,
                                               std::shared_ptr<Cancel> cancel,
                                               const TargetOptions& options) REQUIRES(bql);
  /// Ends it if it goes on.
  ~Target();
  Target(const Target&) = delete;
  Target& operator=(const Target&) = delete;

  /// A connection that came to the same address. Main, BQL. Its switch is that of the first one.
  void add_channel(std::unique_ptr<Channel> channel) { mailbox_->put(std::move(channel)); }

  Progress progress() const;

 private:
  Target(const Parts& parts, std::unique_ptr<Channel> channel, std::shared_ptr<Cancel> cancel,
         const TargetOptions& options);

  void run();
  Result<void> receive_all();
  Result<void> greet();
  Result<void> receive_until_end();
  Result<void> receive_device(const Frame& frame);
  Result<void> check_complete(const End& end) const;
  Result<void> load();
  Result<void> arrive_one_way();
  TakeOver how_to_take_over();
  Result<void> hand_over();
  void refuse(const Error& why);
  TargetEvent next_event(Error& why);
  TargetEvent sent(Result<void> result, Error& why);
  TargetEvent take_locks(Error& why);
  Result<void> run_machine();
  void release_locks();
  void finish(const Result<void>& result);

  const Parts parts_;
  const TargetOptions options_;
  std::shared_ptr<Cancel> cancel_;
  std::shared_ptr<Cancel> refusal_cancel_;
  std::unique_ptr<ChannelMailbox> mailbox_;
  std::unique_ptr<Channel> channel_;
  FrameLink link_;
  MainCalls main_;
  Manifest ours_;
  std::unique_ptr<RamReceiver> ram_;
  std::vector<DeviceState> devices_;  // in the order of ours_.devices
  std::vector<bool> has_device_;
  bool runs_there_ = false;
  TargetState state_ = TargetState::kLoading;
  Guarded<Progress> progress_;
  Thread thread_;
};

}  // namespace rhea::migration
