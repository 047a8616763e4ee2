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
  return ok();
}

Result<void> Vm::cont() {
  if (state_ == RunState::kRunning) return ok();
  if (needs_reset(state_)) {
    return fail(ErrorKind::kBusy, "Resetting the Virtual Machine is required");
  }
  state_ = RunState::kRunning;
  tell([](VmObserver& o) { o.resumed(); });
  parts_.clock.start();
  parts_.accel.resume_vcpus();
  return ok();
}

Result<void> Vm::reload() {
  machine_->reset();
  if (!config_.kernel) return ok();
  return parts_.accel.reset(TRY(machine_->load_kernel()));
}

Result<void> Vm::reset(Cause cause) {
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
