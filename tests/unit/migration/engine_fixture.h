// Two machines without guests, and a migration from one to the other within this process.
#pragma once

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "memory/address_space.h"
#include "migration/source.h"
#include "migration/target.h"
#include "tests/support/temp_dir.h"
#include "tests/support/watchdog.h"
#include "tests/unit/migration/fake_machine.h"
#include "util/main_loop.h"
#include "util/rcu.h"
#include "util/thread.h"

namespace rhea::migration::test {

/// Both machines, the loop that is main for both, and what their migration tells. The BQL is held
/// as long as it lives.
class EngineFixture : private SourceObserver, private TargetObserver {
 public:
  // Unchecked: the destructor gives the BQL back.
  EngineFixture() NO_THREAD_SAFETY_ANALYSIS {
    bql.lock();
    loop_ = MUST(MainLoop::create());
    limit_ = std::make_shared<BandwidthLimit>(clock_, 0);
    space_.emplace("memory", root_);
    source.start();
    outside.lock_holder = "source";
    fill();
  }
  // Unchecked: the constructor took the BQL.
  ~EngineFixture() override NO_THREAD_SAFETY_ANALYSIS {
    watch_ = FdWatch();
    leaving_.reset();
    coming_.reset();
    for (auto& region : shown_) root_.remove(*region);
    space_.reset();
    loop_.reset();
    bql.unlock();
    rcu_drain_callbacks();
  }
  EngineFixture(const EngineFixture&) = delete;
  EngineFixture& operator=(const EngineFixture&) = delete;

  Outside outside;
  FakeMachine source{"source", outside}, target{"target", outside};
  SourceOptions source_options;
  TargetOptions target_options;
  std::vector<std::string> source_events, target_events;
  std::optional<TargetState> arrival;
  std::string arrival_error;
  std::function<void(uint64_t)> on_pass;
  const Clock* clock = nullptr;  // the source's, if not the host's

  /// Begins to move `source` to `target` over a socket.
  void begin() {
    bql.assert_held();
    listener_ = MUST(Listener::create(MUST(parse_address("unix:" + dir_.file("socket")))));
    watch_ = MUST(loop_->service().watch(listener_->fd(), FdEvents::kRead, [this](FdEvents) {
      bql.assert_held();
      if (!cancel_) cancel_ = MUST(Cancel::create());
      auto channel = MUST(listener_->accept(cancel_));
      if (!channel) return;
      if (coming_) {
        coming_->add_channel(std::move(channel));
      } else {
        receive(std::move(channel));
      }
    }));
    send("unix:" + dir_.file("socket"));
  }
  void send(const std::string& uri) {
    bql.assert_held();
    const Clock& source_clock = clock != nullptr ? *clock : clock_;
    const Source::Parts parts{loop_->service(), source, *this, source_clock, limit_};
    auto started = Source::start(parts, MUST(parse_address(uri)), source_options, {});
    if (!started) throw std::runtime_error(started.error().message());
    leaving_ = std::move(*started);
  }
  void receive_from_file(const std::string& uri) {
    bql.assert_held();
    cancel_ = MUST(Cancel::create());
    receive(MUST(receive_from(MUST(parse_address(uri)), cancel_, {})));
  }
  /// Until both sides are done, or only the source where there is no other.
  void finish() {
    bql.assert_held();
    rhea::test::Watchdog watchdog("a migration", std::chrono::seconds(60));
    while (!over()) loop_->turn();
  }
  void run() {
    begin();
    finish();
  }
  void turn_until(const std::function<bool()>& done) {
    bql.assert_held();
    rhea::test::Watchdog watchdog("a turn", std::chrono::seconds(60));
    while (!done()) loop_->turn();
  }
  Source& leaving() ASSERT_CAPABILITY(bql) {
    bql.assert_held();
    return *leaving_;
  }
  // On any thread:
  Progress progress() { return leaving_->progress(); }
  void set_downtime_limit(Nanoseconds limit) { leaving_->set_downtime_limit(limit); }
  void set_throttle(const ThrottleParameters& to) { leaving_->set_throttle(to); }
  void destroy_source() {
    bql.assert_held();
    leaving_.reset();
  }
  // Unchecked: gives the BQL back while it waits.
  void drain_rcu() NO_THREAD_SAFETY_ANALYSIS {
    bql.unlock();
    rcu_drain_callbacks();
    bql.lock();
  }
  std::string error() {
    const Progress p = progress();
    return p.error ? p.error->message() : "";
  }
  /// A connection to the target that is not the source's.
  std::unique_ptr<Channel> connect_to_target() {
    return MUST(connect_to(listener_->address(), MUST(Cancel::create()), {}));
  }
  /// On main, soon. Any thread.
  void post(std::function<void()> what) { loop_->service().post(std::move(what)); }
  /// The target's process is killed.
  void kill_target() {
    bql.assert_held();
    target.kill();
    coming_.reset();
    arrival = TargetState::kGone;
  }
  /// Whatever comes from the target from here on is lost, and whatever goes there.
  void cut() { cancel_->cancel(); }
  std::string file(const std::string& name) const { return dir_.file(name); }
  Status source_status() const { return source_status_; }

  /// Where units reach the source's RAM.
  memory::AddressSpace& show_source_ram() {
    bql.assert_held();
    for (size_t i = 0; i < 2; ++i) {
      auto block = source.block(i).shared_from_this();
      const std::string name = block->name();
      shown_.push_back(std::make_unique<memory::MemoryRegion>(name, std::move(block)));
      root_.add(*shown_.back(), uint64_t{i} << 32);
    }
    return *space_;
  }
  /// What a forced unplug does: the second block is in no address space any more.
  void hide_source_rom() {
    bql.assert_held();
    root_.remove(*shown_.back());
    shown_.pop_back();
  }
  bool over() const { return is_over(source_status_) && (!coming_ || arrival); }

  bool same_ram() {
    for (size_t i = 0; i < 2; ++i)
      if (!std::ranges::equal(source.block(i).bytes(), target.block(i).bytes())) return false;
    return true;
  }

 private:
  void receive(std::unique_ptr<Channel> channel) {
    bql.assert_held();
    const Target::Parts parts{loop_->service(), target, *this};
    coming_ = MUST(Target::start(parts, std::move(channel), cancel_, target_options));
  }
  // Random pages, zero pages, and pages that the target has otherwise.
  void fill() {
    std::mt19937_64 random(std::random_device{}());
    for (size_t i = 0; i < 2; ++i)
      for (uint64_t page = 0; page < FakeMachine::kPages; ++page) {
        const size_t at = page * memory::kDirtyPageBytes;
        if (page % 3 != 0)
          for (size_t word = 0; word < 64; ++word) {
            const uint64_t value = random();
            std::memcpy(source.block(i).host() + at + word * 64, &value, sizeof value);
          }
        if (page % 5 == 0) target.block(i).host()[at + 4095] = std::byte{1};
      }
  }

  void source_status(Status status) override {
    source_status_ = status;
    source_events.emplace_back(to_string(status));
  }
  void pass_begins(uint64_t number) override {
    source_events.push_back(fmt::format("pass {}", number));
    if (on_pass) on_pass(number);
  }
  void target_status(Status status) override { target_events.emplace_back(to_string(status)); }
  void target_ended(TargetState state, const std::optional<Error>& why) override {
    arrival = state;
    if (why) arrival_error = why->message();
    if (state == TargetState::kGone) target.kill();
  }

  HostClock clock_;
  rhea::test::TempDir dir_;
  std::unique_ptr<MainLoop> loop_;
  RcuThread self_;
  memory::MemoryRegion root_{"root", UINT64_MAX};
  std::vector<std::unique_ptr<memory::MemoryRegion>> shown_;  // the source's RAM
  std::optional<memory::AddressSpace> space_;
  std::shared_ptr<BandwidthLimit> limit_;
  std::unique_ptr<Listener> listener_;
  FdWatch watch_;
  std::shared_ptr<Cancel> cancel_;
  std::unique_ptr<Source> leaving_;
  std::unique_ptr<Target> coming_;
  Status source_status_ = Status::kNone;
};

}  // namespace rhea::migration::test
