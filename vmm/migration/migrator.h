// Migrator: moves the machine out of this process, or into it.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "migration/bandwidth_limit.h"
#include "migration/source.h"
#include "migration/target.h"
#include "util/aio_context.h"
#include "util/bql.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/timer.h"
#include "vmm/hotplug.h"
#include "vmm/migration/arrival.h"
#include "vmm/migration/moved_machine.h"
#include "vmm/migration/settings.h"
#include "vmm/qmp/json_text.h"

namespace rhea::vmm {

/// What a monitor says about migration, and what it hears: at most one goes on at a time.
///
/// While one does, nothing is plugged or reconfigured (check_idle(), Hotplug::forbid()), and what
/// the guest ejects is kept: it is acted on where the guest runs afterwards.
///
/// Thread: main, service context, BQL held. Errors: texts are QEMU's where it has one.
class Migrator final : public VmObserver,
                       private migration::SourceObserver,
                       private migration::TargetObserver {
 public:
  using Publisher = std::function<void(std::string_view event, const ReplyJson& data)>;
  /// All outlive it. It is an observer of `vm`.
  struct Parts {
    AioContext& service;
    Vm& vm;
    MovedMachine& machine;
    PcMachine& board;
    Hotplug& hotplug;
  };
  explicit Migrator(const Parts& parts);
  /// Ends what goes on. A machine that was stopped for it stays so.
  ~Migrator() override;
  Migrator(const Migrator&) = delete;
  Migrator& operator=(const Migrator&) = delete;

  /// Publishes events; null drops them.
  void set_publisher(Publisher publisher) { publisher_ = std::move(publisher); }

  /// Begins to send the machine to `uri`. kSetup was told when it returns; what follows is told as
  /// it happens. Errors: the machine or the settings do not allow it, or `uri` is no address.
  Result<void> migrate(std::string_view uri, migration::TakeFd take_fd) REQUIRES(bql);
  /// Waits at `uri` for a machine: -incoming and migrate-incoming. Errors: as migrate(); the
  /// process was not started with -incoming.
  Result<void> await(std::string_view uri, const migration::TakeFd& take_fd) REQUIRES(bql);
  void cancel() REQUIRES(bql);
  /// migrate-continue. Errors: it is not in `state`.
  Result<void> go_on(std::string_view state) REQUIRES(bql);

  const MigrationSettings& settings() const noexcept { return settings_; }
  /// Errors: kBusy, one goes on.
  Result<void> set_capabilities(const MigrationCapabilities& capabilities) REQUIRES(bql);
  /// Takes effect at once, also on one that goes on. Errors: check().
  Result<void> set_parameters(const MigrationParameters& parameters) REQUIRES(bql);

  /// Of the one that goes on, or the last one.
  migration::Progress progress() const REQUIRES(bql);
  /// Where a machine is waited for, as long as it is.
  std::optional<migration::Address> listens_at() const REQUIRES(bql);
  /// Errors: kBusy, "`what` not allowed while migrating".
  Result<void> check_idle(std::string_view what) const REQUIRES(bql);

  /// What the guest has ejected meanwhile is acted on.
  void resumed() override;

 private:
  Result<void> check_may_leave() const REQUIRES(bql);
  void begin() REQUIRES(bql);
  void end() REQUIRES(bql);
  void reap() REQUIRES(bql);
  void tell(migration::Status status) REQUIRES(bql);
  void log_progress() REQUIRES(bql);

  void source_status(migration::Status status) override REQUIRES(bql);
  void pass_begins(uint64_t number) override REQUIRES(bql);
  void target_status(migration::Status status) override REQUIRES(bql);
  void target_ended(migration::TargetState state, const std::optional<Error>& why) override
      REQUIRES(bql);

  const Parts parts_;
  HostClock clock_;
  MigrationSettings settings_;
  const std::shared_ptr<migration::BandwidthLimit> bandwidth_;
  Publisher publisher_;
  bool moving_ = false;
  bool awaited_ = false;  // a machine was, or came
  std::unique_ptr<migration::Source> source_;
  std::unique_ptr<Arrival> arrival_;
  migration::Progress last_;  // of one that has ended
  Bh reap_bh_;
  Timer log_timer_;
};

}  // namespace rhea::vmm
