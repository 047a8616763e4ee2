#include "vmm/vm.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "util/fd.h"
#include "util/log.h"
#include "vmm/kvm/kvm_vm.h"

namespace rhea::vmm {
namespace {

/// States that only a reset leaves: the guest is off or beyond repair.
bool needs_reset(RunState state) {
  return state == RunState::kShutdown || state == RunState::kInternalError;
}

}  // namespace

Vm::Vm(const VmConfig& config, const Parts& parts) : config_(config), parts_(parts) {
  serve_bh_ = std::make_unique<Bh>(parts_.loop.service(), [this] {
    bql.assert_held();
    serve_requests();
  });
}

Vm::~Vm() = default;

Result<void> Vm::power_on(PcMachine& machine) {
  machine_ = &machine;
  return reload();
}

void Vm::await_arrival(PcMachine& machine) {
  machine_ = &machine;
  state_ = RunState::kInmigrate;
  runs_on_arrival_ = !config_.start_paused;
}

RunState Vm::state() const {
  bql.assert_held();
  return state_;
}

std::string Vm::uuid() const {
  return config_.uuid.value_or("00000000-0000-0000-0000-000000000000");
}

KvmInfo Vm::kvm() const {
  const bool enabled = parts_.accel.is_kvm();
  return KvmInfo{.enabled = enabled, .present = enabled || kvm_present()};
}

template <class F>
void Vm::tell(F&& f) {
  for (VmObserver* observer : std::vector(observers_)) f(*observer);
}

void Vm::add_observer(VmObserver& observer) { observers_.push_back(&observer); }
void Vm::remove_observer(VmObserver& observer) { std::erase(observers_, &observer); }

void Vm::halt(RunState state) {
  const bool was_running = state_ == RunState::kRunning;
  parts_.accel.pause_vcpus();
  parts_.clock.stop();
  state_ = state;
  if (was_running) tell([](VmObserver& o) { o.stopped(); });
}

Result<void> Vm::stop() {
  if (state_ == RunState::kRunning) halt(RunState::kPaused);
  if (state_ == RunState::kInmigrate) runs_on_arrival_ = false;
  const bool leaving = state_ == RunState::kFinishMigrate;
  if (leaving && before_hand_over_ == RunState::kRunning) before_hand_over_ = RunState::kPaused;
  return ok();
}

Result<void> Vm::cont() {
  if (state_ == RunState::kRunning) return ok();
  if (state_ == RunState::kInmigrate) {
    runs_on_arrival_ = true;
    return ok();
  }
  if (state_ == RunState::kFinishMigrate) {
    return fail(ErrorKind::kBusy, "Migration is not finalized yet");
  }
  if (needs_reset(state_)) {
    return fail(ErrorKind::kBusy, "Resetting the Virtual Machine is required");
  }
  if (gate_) TRY(gate_());
  run();
  return ok();
}

void Vm::run() {
  state_ = RunState::kRunning;
  tell([](VmObserver& o) { o.resumed(); });
  parts_.clock.start();
  parts_.accel.resume_vcpus();
}

Result<void> Vm::reload() {
  machine_->reset();
  if (!config_.kernel) return ok();
  return parts_.accel.reset(TRY(machine_->load_kernel()));
}

/// Whether the machine is this process's to change.
Result<void> Vm::check_here(std::string_view what) const {
  switch (state_) {
    case RunState::kInmigrate:
      return fail(ErrorKind::kBusy, "{}: the machine has not arrived yet", what);
    case RunState::kFinishMigrate:
      return fail(ErrorKind::kBusy, "{}: Migration is not finalized yet", what);
    case RunState::kPostmigrate:
      return fail(ErrorKind::kBusy, "{}: the machine has left; 'cont' takes it back", what);
    default:
      return ok();
  }
}

Result<void> Vm::reset(Cause cause) {
  TRY(check_here("reset"));
  if (config_.no_reboot) {
    serve_shutdown(cause);
    return ok();
  }
  parts_.accel.pause_vcpus();
  // What the guest asked for before this reset belongs to the machine that is gone.
  reset_requested_.reset();
  shutdown_requested_.reset();
  if (auto done = reload(); !done) {
    halt(RunState::kInternalError);
    return std::move(done).error().context("reset");
  }
  tell([cause](VmObserver& o) { o.was_reset(cause); });
  if (state_ == RunState::kRunning) {
    parts_.accel.resume_vcpus();
  } else {
    state_ = RunState::kPrelaunch;
  }
  return ok();
}

Result<void> Vm::powerdown() {
  TRY(check_here("powerdown"));
  machine_->press_power_button();
  tell([](VmObserver& o) { o.powerdown_requested(); });
  return ok();
}

void Vm::quit(Cause cause) {
  if (std::exchange(quitting_, true)) return;
  tell([cause](VmObserver& o) { o.shutting_down(cause); });
  parts_.loop.request_quit();
}

void Vm::latch_and_hold() {
  // The vCPU that asked must not run on: what it asked for comes before its next instruction.
  parts_.accel.hold_vcpus();
  serve_bh_->schedule();
}

void Vm::request_reset(Cause cause) {
  if (!reset_requested_) reset_requested_ = cause;
  latch_and_hold();
}

void Vm::request_shutdown(Cause cause) {
  if (!shutdown_requested_) shutdown_requested_ = cause;
  latch_and_hold();
}

void Vm::disk_error(const DiskError& error) {
  tell([&error](VmObserver& o) { o.disk_error(error); });
  const bool stops = error.error.action == devices::OnIoError::kStop;
  if (stops && state_ == RunState::kRunning) halt(RunState::kIoError);
}

void Vm::triple_fault() {
  bql.assert_held();
  request_reset(Cause::kGuestReset);
}

void Vm::internal_error(std::string report) {
  bql.assert_held();
  if (!internal_error_) internal_error_ = std::move(report);
  latch_and_hold();
}

void Vm::serve_requests() {
  if (auto report = std::exchange(internal_error_, std::nullopt)) serve_internal_error(*report);
  if (auto cause = std::exchange(shutdown_requested_, std::nullopt)) serve_shutdown(*cause);
  if (auto cause = std::exchange(reset_requested_, std::nullopt)) {
    if (auto done = reset(*cause); !done) RHEA_LOG(kVmm, kError, "{}", done.error().message());
  }
  if (state_ == RunState::kRunning && !quitting_) parts_.accel.resume_vcpus();
}

bool Vm::requests_wait() const {
  return internal_error_ || shutdown_requested_ || reset_requested_;
}

Result<void> Vm::begin_hand_over() {
  parts_.accel.pause_vcpus();
  // The other side does not hear of what was asked for here.
  while (requests_wait()) {
    serve_requests();
    parts_.accel.pause_vcpus();
  }
  if (quitting_) return fail(ErrorKind::kBusy, "The machine is ending");
  before_hand_over_ = state_;
  if (state_ == RunState::kRunning) halt(RunState::kFinishMigrate);
  state_ = RunState::kFinishMigrate;
  return ok();
}

void Vm::end_hand_over(HandOver how) {
  switch (how) {
    case HandOver::kStays:
      state_ = before_hand_over_;
      if (state_ == RunState::kRunning) run();
      return;
    case HandOver::kLeft:
      state_ = RunState::kPostmigrate;
      return;
    case HandOver::kOpen:
      state_ = RunState::kPaused;
      return;
  }
}

void Vm::arrive(RunState state) { state_ = state; }

void Vm::abandon() {
  exit_status_ = 1;
  parts_.loop.request_quit();
}

void Vm::serve_shutdown(Cause cause) {
  if (!config_.no_shutdown) return quit(cause);
  parts_.accel.pause_vcpus();
  tell([cause](VmObserver& o) { o.shutting_down(cause); });
  halt(RunState::kShutdown);
}

void Vm::serve_internal_error(const std::string& report) {
  // On stderr whatever the log level: without it nobody could say what the guest did.
  static_cast<void>(write_all(STDERR_FILENO, "rhea: " + report));
  halt(RunState::kInternalError);
}

}  // namespace rhea::vmm
