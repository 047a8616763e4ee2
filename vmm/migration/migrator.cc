#include "vmm/migration/migrator.h"

#include <unistd.h>

#include <chrono>
#include <utility>

#include "migration/address.h"
#include "util/fd.h"
#include "util/log.h"

namespace rhea::vmm {
namespace {

using migration::Status;
using migration::TargetState;

constexpr std::string_view kDoing = "migrating";
constexpr auto kLogPeriod = std::chrono::seconds(1);

double mebibytes(uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

/// For people, whatever the log level.
void say(std::string_view what) {
  static_cast<void>(write_all(STDERR_FILENO, fmt::format("rhea: {}\n", what)));
}

Result<migration::Address> parse_uri(std::string_view uri) {
  auto address = migration::parse_address(uri);
  if (address || address.error().kind() != ErrorKind::kUnsupported) return address;
  return fail(ErrorKind::kInvalidArgument, "Parameter 'uri' expects a valid migration protocol");
}

}  // namespace

Migrator::Migrator(const Parts& parts)
    : parts_(parts),
      bandwidth_(
          std::make_shared<migration::BandwidthLimit>(clock_, settings_.parameters.max_bandwidth)),
      reap_bh_(parts.service,
               [this] {
                 bql.assert_held();
                 reap();
               }),
      log_timer_(parts.service.timers(), [this] {
        bql.assert_held();
        log_progress();
      }) {}

Migrator::~Migrator() {
  bql.assert_held();
  source_.reset();
  arrival_.reset();
}

// --- Out of this process ------------------------------------------------------------------------

Result<void> Migrator::check_may_leave() const {
  if (moving_) return fail(ErrorKind::kBusy, "There's a migration process in progress");
  switch (parts_.vm.state()) {
    case RunState::kInmigrate:
      return fail(ErrorKind::kBusy, "Guest is waiting for an incoming migration");
    case RunState::kPostmigrate:
      return fail(ErrorKind::kBusy,
                  "Can't migrate the vm that was paused due to previous migration");
    case RunState::kInternalError:
      return fail(ErrorKind::kBusy, "Can't migrate the vm: it can not go on anywhere");
    default:
      break;
  }
  for (const Hotplug::Status& device : parts_.hotplug.query()) {
    if (device.state != Hotplug::State::kPending) continue;
    return fail(ErrorKind::kBusy, "Can't migrate while device '{}' is being unplugged", device.id);
  }
  return ok();
}

Result<void> Migrator::migrate(std::string_view uri, migration::TakeFd take_fd) {
  TRY(check_may_leave());
  const migration::Address address = TRY(parse_uri(uri));
  const migration::SourceOptions options = settings_.source();
  if (options.ram.channels != 0 && !address.takes_connections()) {
    return fail(ErrorKind::kInvalidArgument,
                "Multifd needs a tcp: or unix: address: '{}' is one connection, and can not be {}",
                uri, options.ram.channels + 1);
  }
  reap();
  begin();
  parts_.board.pci_hotplug().hold_ejects();
  auto started = migration::Source::start({.service = parts_.service,
                                           .machine = parts_.machine,
                                           .observer = *this,
                                           .clock = clock_,
                                           .bandwidth = bandwidth_},
                                          address, options, std::move(take_fd));
  if (!started) {
    end();
    return std::move(started).error();
  }
  source_ = *std::move(started);
  if (log_enabled(LogFolder::kMigration, LogLevel::kInfo)) log_timer_.arm_after(kLogPeriod);
  return ok();
}

void Migrator::begin() {
  moving_ = true;
  parts_.hotplug.forbid(std::string(kDoing));
}

void Migrator::end() {
  if (!std::exchange(moving_, false)) return;
  static_cast<void>(parts_.hotplug.allow(kDoing));
  if (parts_.vm.state() == RunState::kRunning) parts_.board.pci_hotplug().release_ejects();
}

/// An eject that was kept has travelled, too: it is acted on only where the machine runs.
void Migrator::resumed() {
  bql.assert_held();
  if (!moving_) parts_.board.pci_hotplug().release_ejects();
}

void Migrator::cancel() {
  if (source_ != nullptr) source_->cancel();
}

Result<void> Migrator::go_on(std::string_view state) {
  if (state == to_string(Status::kPreSwitchover) && source_ != nullptr) return source_->go_on();
  return fail(ErrorKind::kBusy, "Migration not in expected state: {}",
              to_string(progress().status));
}

void Migrator::source_status(Status status) {
  if (is_over(status)) {
    end();
    reap_bh_.schedule();
  }
  tell(status);
  if (status != Status::kFailed) return;
  const migration::Progress progress = source_->progress();
  say(fmt::format("migration failed: {}", progress.error ? progress.error->message() : "?"));
}

void Migrator::pass_begins(uint64_t number) {
  if (publisher_ && settings_.capabilities.events) {
    publisher_("MIGRATION_PASS", {{"pass", number}});
  }
}

void Migrator::tell(Status status) {
  RHEA_LOG(kMigration, kInfo, "{}", to_string(status));
  if (publisher_ && settings_.capabilities.events) {
    publisher_("MIGRATION", {{"status", to_string(status)}});
  }
}

/// Not in the call that tells of the end: that comes from the thread which goes with it.
void Migrator::reap() {
  reap_bh_.cancel();
  if (moving_) return;
  if (source_ != nullptr) last_ = source_->progress();
  if (arrival_ != nullptr) last_ = arrival_->progress();
  source_.reset();
  arrival_.reset();
}

void Migrator::log_progress() {
  if (source_ == nullptr || !moving_) return;
  const migration::Progress p = source_->progress();
  RHEA_LOG(kMigration, kInfo,
           "{}: pass {}, {:.0f} MiB sent, {:.0f} MiB left, {:.0f} MiB/s, {} pages/s written{}{}",
           to_string(p.status), p.passes, mebibytes(p.transferred_bytes),
           mebibytes(p.remaining_pages * memory::kDirtyPageBytes), mebibytes(p.bytes_per_s),
           p.dirty_pages_per_s, p.stall.empty() ? "" : "; ", p.stall);
  log_timer_.arm_after(kLogPeriod);
}

// --- Into this process --------------------------------------------------------------------------

Result<void> Migrator::await(std::string_view uri, const migration::TakeFd& take_fd) {
  if (awaited_) {
    return fail(ErrorKind::kBusy, "The incoming migration has already been started");
  }
  if (parts_.vm.state() != RunState::kInmigrate) {
    return fail(ErrorKind::kBusy, "'-incoming' was not specified on the command line");
  }
  const migration::Address address = TRY(parse_uri(uri));
  auto started =
      Arrival::start({.service = parts_.service, .machine = parts_.machine, .observer = *this},
                     address, take_fd, [this] {
                       bql.assert_held();
                       begin();
                       return settings_.target();
                     });
  if (!started) {
    end();
    return std::move(started).error();
  }
  arrival_ = *std::move(started);
  awaited_ = true;
  tell(Status::kSetup);
  return ok();
}

void Migrator::target_status(Status status) { tell(status); }

void Migrator::target_ended(TargetState state, const std::optional<Error>& why) {
  if (state == TargetState::kArrived) parts_.machine.arrive();
  if (state == TargetState::kUnconfirmed) {
    parts_.vm.arrive(RunState::kPaused);
    say(why ? why->message() : "The hand-over was not confirmed");
  }
  if (state == TargetState::kGone) {
    say(fmt::format("load of migration failed: {}", why ? why->message() : "?"));
    parts_.vm.abandon();
  }
  end();
  reap_bh_.schedule();
}

// --- Settings and queries -----------------------------------------------------------------------

Result<void> Migrator::set_capabilities(const MigrationCapabilities& capabilities) {
  if (moving_) return fail(ErrorKind::kBusy, "There's a migration process in progress");
  settings_.capabilities = capabilities;
  // Clients put all that they do not need to false, so that is no error.
  if (!std::exchange(settings_.capabilities.return_path, true)) {
    RHEA_LOG(kMigration, kInfo, "return-path stays on: what can answer does");
  }
  return ok();
}

Result<void> Migrator::set_parameters(const MigrationParameters& parameters) {
  TRY(check(parameters));
  settings_.parameters = parameters;
  bandwidth_->set(parameters.max_bandwidth);
  if (source_ == nullptr) return ok();
  const migration::SourceOptions options = settings_.source();
  source_->set_downtime_limit(options.downtime_limit);
  source_->set_throttle(options.throttle);
  return ok();
}

migration::Progress Migrator::progress() const {
  if (source_ != nullptr) return source_->progress();
  if (arrival_ != nullptr) return arrival_->progress();
  return last_;
}

std::optional<migration::Address> Migrator::listens_at() const {
  if (arrival_ == nullptr) return std::nullopt;
  return arrival_->listens_at();
}

Result<void> Migrator::check_idle(std::string_view what) const {
  if (!moving_) return ok();
  return fail(ErrorKind::kBusy, "{} not allowed while {}", what, kDoing);
}

}  // namespace rhea::vmm
