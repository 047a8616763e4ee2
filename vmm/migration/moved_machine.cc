#include "vmm/migration/moved_machine.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <string_view>
#include <utility>

#include "memory/topology.h"
#include "util/crc32c.h"
#include "util/log.h"
#include "util/saved_state.h"
#include "vmm/version.h"

namespace rhea::vmm {
namespace {

using migration::DeviceState;

constexpr std::string_view kAccelPath = "accelerator";
constexpr std::string_view kRunStatePath = "run-state";
constexpr uint32_t kAccelVersion = 1;

/// An accelerator's sections, as one state.
struct SavedAccel {
  static constexpr size_t kMaxSections = 4096;  // one for each vCPU, and a few
  std::vector<StateSection> sections;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("sections", s.sections, kMaxSections);
  }
};

struct SavedRunState {
  static constexpr uint32_t kVersion = 1;
  std::string state;  ///< QEMU's name
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("state", s.state, 32);
  }
};

/// In which a machine can arrive.
constexpr std::array kArrivals{RunState::kRunning, RunState::kPaused, RunState::kPrelaunch,
                               RunState::kIoError, RunState::kShutdown};

uint32_t crc_of(std::string_view schema) {
  return crc32c(std::as_bytes(std::span(schema.data(), schema.size())));
}

}  // namespace

std::vector<MovedMachine::Moved> MovedMachine::moved_devices() const {
  std::vector<Moved> all;
  for (const auto& device : parts_.board.devices()) {
    const std::string_view kind = device->state_format().kind;
    if (kind.empty()) continue;
    all.push_back({device->id(), std::string(kind), device.get(), device->settings()});
  }
  for (const UserDevice* device : parts_.devices.all()) {
    all.push_back({parts_.devices.location(*device), device->request().asked().driver,
                   device->saved(), device->settings()});
  }
  return all;
}

migration::Manifest MovedMachine::manifest() {
  migration::Manifest manifest{.program = fmt::format("Rhea {}", version()),
                               .machine = parts_.config.machine,
                               .accelerator = parts_.accel.is_kvm() ? "kvm" : "qtest",
                               .cpus = parts_.config.smp.cpus,
                               .uuid = parts_.vm.uuid(),
                               .ram = {},
                               .devices = {}};
  for (const auto& block : ram()) manifest.ram.push_back({block->name(), block->size_bytes()});
  manifest.devices.push_back({std::string(kAccelPath), manifest.accelerator, kAccelVersion,
                              crc_of(parts_.accel.describe_state()), parts_.accel.settings()});
  for (const Moved& moved : moved_devices()) {
    const devices::StateFormat format =
        moved.device != nullptr ? moved.device->state_format() : devices::StateFormat{};
    manifest.devices.push_back(
        {moved.path, moved.kind, format.version, crc_of(format.schema), moved.settings});
  }
  manifest.devices.push_back({std::string(kRunStatePath), std::string(kRunStatePath),
                              SavedRunState::kVersion, crc_of(state_schema<SavedRunState>())});
  return manifest;
}

std::vector<std::shared_ptr<memory::RamBlock>> MovedMachine::ram() { return {parts_.board.ram()}; }

// --- The source's -------------------------------------------------------------------------------

Result<void> MovedMachine::start_dirty_log() {
  return memory::topology.start_dirty_log(memory::DirtyClient::kMigration);
}

void MovedMachine::stop_dirty_log() {
  memory::topology.stop_dirty_log(memory::DirtyClient::kMigration);
}

void MovedMachine::throttle(unsigned percent) { parts_.accel.throttle_vcpus(percent); }

Result<void> MovedMachine::stop() {
  TRY(parts_.vm.begin_hand_over());
  auto rests = check_at_rest();
  if (!rests) resume();
  return rests;
}

/// Stopping has drained and flushed the disks, and only logged what went wrong with that.
Result<void> MovedMachine::check_at_rest() {
  // It was drained just now: what is under way still, will be after another wait, too.
  constexpr auto kDeadline = std::chrono::milliseconds(100);
  const auto nothing = [](block::DrainBypass&) -> Result<void> { return ok(); };
  if (parts_.vm.before_hand_over() == RunState::kInternalError) {
    return fail(ErrorKind::kBusy, "The machine is in '{}': it can not go on anywhere",
                to_string(RunState::kInternalError));
  }
  if (const auto& settled = parts_.storage.settled(); !settled) {
    return Error(settled.error()).context("The disks do not come to rest");
  }
  Gs& gs = parts_.loop.gs();
  TRY(parts_.storage.graph().with_all_drained(gs, nothing, kDeadline));
  return parts_.storage.graph().check_no_job_writes(gs);
}

bool MovedMachine::ran() const { return parts_.vm.before_hand_over() == RunState::kRunning; }

Result<std::vector<DeviceState>> MovedMachine::save() {
  std::vector<DeviceState> states{{std::string(kAccelPath), {}}};
  for (const Moved& moved : moved_devices()) {
    states.push_back({moved.path, {}});
    if (moved.device != nullptr) states.back().state = moved.device->save();
  }
  const SavedRunState run_state{std::string(to_string(parts_.vm.before_hand_over()))};
  states.push_back({std::string(kRunStatePath), encode_state(run_state)});
  states.front().state = encode_state(SavedAccel{TRY(parts_.accel.save_state())});
  for (const DeviceState& state : states) {
    if (state.state.size() <= DeviceState::kMaxBytes) continue;
    return fail(ErrorKind::kResource, "The state of '{}' has {} bytes, at most {} can be sent",
                state.path, state.state.size(), DeviceState::kMaxBytes);
  }
  return states;
}

void MovedMachine::resume() { parts_.vm.end_hand_over(Vm::HandOver::kStays); }

void MovedMachine::leave() { parts_.vm.end_hand_over(Vm::HandOver::kLeft); }

void MovedMachine::stay() { parts_.vm.end_hand_over(Vm::HandOver::kOpen); }

// --- The destination's --------------------------------------------------------------------------

bool MovedMachine::run_on_arrival() const { return parts_.vm.runs_on_arrival(); }

Result<void> MovedMachine::load(const std::vector<DeviceState>& states) {
  const std::vector<Moved> devices = moved_devices();
  RHEA_CHECK(states.size() == devices.size() + 2, "{} states for {} devices", states.size(),
             devices.size());
  TRY(load_accel(states.front()));
  for (size_t i = 0; i < devices.size(); ++i) {
    const DeviceState& state = states[i + 1];
    const Moved& moved = devices[i];
    RHEA_CHECK(state.path == moved.path, "a state of '{}' for '{}'", state.path, moved.path);
    if (moved.device == nullptr) {
      if (state.state.empty()) continue;
      return fail(ErrorKind::kCorrupt, "{}: a state of {} bytes, has none", moved.path,
                  state.state.size());
    }
    std::move_only_function<void()> apply = TRY(moved.device->prepare_load(state.state));
    apply();
  }
  TRY(load_run_state(states.back()));
  loaded_ = true;
  return ok();
}

Result<void> MovedMachine::load_accel(const DeviceState& state) {
  const auto saved = TRY(decode_state<SavedAccel>(state.path, state.state));
  const auto prepared = TRY(parts_.accel.prepare_state(saved.sections));
  return prepared->apply();
}

Result<void> MovedMachine::load_run_state(const DeviceState& state) {
  const auto saved = TRY(decode_state<SavedRunState>(state.path, state.state));
  for (const RunState arrival : kArrivals) {
    if (to_string(arrival) != saved.state) continue;
    state_there_ = arrival;
    return ok();
  }
  return fail(ErrorKind::kCorrupt, "{}: a machine does not arrive in '{}'", state.path,
              saved.state);
}

Result<void> MovedMachine::run() {
  parts_.vm.arrive(RunState::kPaused);
  return parts_.vm.cont();
}

/// Who says `cont` to a machine on its way may have said it too late for the hand-over.
void MovedMachine::arrive() {
  const bool ran = state_there_ == RunState::kRunning;
  const bool runs = ran && parts_.vm.runs_on_arrival();
  parts_.vm.arrive(ran ? RunState::kPaused : state_there_);
  if (!runs) return;
  if (const auto run = parts_.vm.cont(); !run) {
    RHEA_LOG(kVmm, kError, "The machine stays paused: {}", run.error().message());
  }
}

void MovedMachine::resumed() {
  bql.assert_held();
  if (!std::exchange(loaded_, false)) return;
  for (const Moved& moved : moved_devices()) {
    if (moved.device != nullptr) moved.device->resume_loaded();
  }
}

// --- Both ---------------------------------------------------------------------------------------

Result<void> MovedMachine::take_locks() {
  return parts_.storage.graph().activate_all(parts_.loop.gs());
}

Result<void> MovedMachine::release_locks() {
  return parts_.storage.graph().inactivate_all(parts_.loop.gs());
}

}  // namespace rhea::vmm
