// A machine without a guest, for tests of migration.
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "memory/topology.h"
#include "migration/machine.h"

namespace rhea::migration::test {

/// What is outside of both: whose locks the images have, and whether two machines ever ran.
struct Outside {
  std::string lock_holder;  // "source", "target", "stranger" or nobody
  int running = 0;
  bool both_ran = false;
  void began() { both_ran |= ++running > 1; }
  void ended() { --running; }
};

/// RAM, three devices, locks, and a log of what it was asked.
class FakeMachine final : public Machine {
 public:
  static constexpr uint64_t kPages = 600;

  FakeMachine(std::string name, Outside& outside) : name_(std::move(name)), outside_(outside) {
    for (const char* block : {"ram", "rom"}) {
      memory::RamBlockConfig config;
      config.name = block;
      config.size_bytes = kPages * memory::kDirtyPageBytes;
      blocks_.push_back(MUST(memory::RamBlock::create(config)));
    }
    for (const char* path : {"cpu0", "disk", "timer"}) devices[path] = std::string(path) + " new";
    info.machine = "fake";
    info.cpus = 1;
    for (const auto& block : blocks_) info.ram.push_back({block->name(), block->size_bytes()});
    for (const auto& [path, state] : devices) info.devices.push_back({path, "thing", 1, 7});
  }

  // What a test changes.
  Manifest info;
  std::map<std::string, std::string> devices;  // path -> state
  std::map<std::string, Error> failures;       // call -> how it fails
  std::function<void(const std::string& call)> hook;
  bool runs = false;
  bool autostart = true;
  bool left = false;
  unsigned throttled = 0;  // per cent
  std::vector<std::string> log;

  /// Has less of it than it says: a page.
  void shrink_rom() { static_cast<void>(replace_rom(memory::kDirtyPageBytes)); }
  /// Lets go of it; something else has its place.
  std::shared_ptr<memory::RamBlock> replace_rom(uint64_t size_bytes) {
    memory::RamBlockConfig config;
    config.name = "rom";
    config.size_bytes = size_bytes;
    return std::exchange(blocks_[1], MUST(memory::RamBlock::create(config)));
  }
  memory::RamBlock& block(size_t index) { return *blocks_[index]; }
  std::byte* page(uint64_t number) { return blocks_[0]->host() + number * memory::kDirtyPageBytes; }
  void write(uint64_t number, uint64_t value) {
    std::memcpy(page(number), &value, sizeof value);
    blocks_[0]->dirty().mark(number * memory::kDirtyPageBytes, sizeof value);
  }
  void start() {
    runs = true;
    outside_.began();
  }
  void kill() {
    if (std::exchange(runs, false)) outside_.ended();
    if (outside_.lock_holder == name_) outside_.lock_holder.clear();
  }

  Manifest manifest() override {
    static_cast<void>(call("manifest"));
    return info;
  }
  std::vector<std::shared_ptr<memory::RamBlock>> ram() override { return blocks_; }
  Result<void> start_dirty_log() override REQUIRES(bql) {
    TRY(call("log"));
    return memory::topology.start_dirty_log(memory::DirtyClient::kMigration);
  }
  void stop_dirty_log() override REQUIRES(bql) {
    static_cast<void>(call("unlog"));
    memory::topology.stop_dirty_log(memory::DirtyClient::kMigration);
  }
  void throttle(unsigned percent) override {
    static_cast<void>(call(fmt::format("throttle {}", percent)));
    throttled = percent;
  }
  Result<void> stop() override {
    TRY(call("stop"));
    ran_ = std::exchange(runs, false);
    if (ran_) outside_.ended();
    return ok();
  }
  bool ran() const override { return ran_; }
  Result<std::vector<DeviceState>> save() override {
    TRY(call("save"));
    std::vector<DeviceState> states;
    for (const auto& [path, state] : devices)
      states.push_back({path, {state.begin(), state.end()}});
    return states;
  }
  void resume() override {
    static_cast<void>(call("resume"));
    if (ran_) start();
  }
  void leave() override {
    static_cast<void>(call("leave"));
    left = true;
  }
  void stay() override { static_cast<void>(call("stay")); }
  bool run_on_arrival() const override { return autostart; }
  Result<void> load(const std::vector<DeviceState>& states) override {
    TRY(call("load"));
    for (const DeviceState& state : states)
      devices[state.path] = std::string(state.state.begin(), state.state.end());
    return ok();
  }
  Result<void> run() override {
    TRY(call("run"));
    start();
    return ok();
  }
  Result<void> take_locks() override {
    TRY(call("lock"));
    if (!outside_.lock_holder.empty() && outside_.lock_holder != name_)
      return fail(ErrorKind::kBusy, "Failed to get \"write\" lock on disk.img");
    outside_.lock_holder = name_;
    return ok();
  }
  Result<void> release_locks() override {
    TRY(call("unlock"));
    if (outside_.lock_holder == name_) outside_.lock_holder.clear();
    return ok();
  }

 private:
  Result<void> call(const std::string& what) {
    log.push_back(what);
    if (hook) hook(what);
    if (const auto failure = failures.find(what); failure != failures.end()) return failure->second;
    return ok();
  }

  const std::string name_;
  Outside& outside_;
  std::vector<std::shared_ptr<memory::RamBlock>> blocks_;
  bool ran_ = false;
};

}  // namespace rhea::migration::test
