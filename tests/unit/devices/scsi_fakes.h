// SCSI units and requests without a disk behind them.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "devices/scsi/scsi_bus.h"
#include "util/mutex.h"

namespace rhea::test {

using devices::ScsiAddress;
using devices::ScsiOutcome;
using devices::ScsiRequest;
using devices::ScsiSense;
using devices::ScsiUnit;

/// A unit that succeeds at once, but for what it is told to hold.
/// Thread: any.
class FakeUnit final : public ScsiUnit {
 public:
  static constexpr uint8_t kPark = 0xe0;   ///< waits for the machine: a cancellation ends it
  static constexpr uint8_t kStuck = 0xe1;  ///< waits for the host: only let_go() ends it
  static constexpr uint8_t kFail = 0xe2;   ///< a read error at block 7, when half is transferred
  static constexpr uint8_t kFill = 0xe3;   ///< fills data_in with ones
  static constexpr uint8_t kTake = 0xe4;   ///< adds data_out's bytes to `taken`

  explicit FakeUnit(const ScsiAddress& address)
      : ScsiUnit("lun" + std::to_string(address.lun), address) {}

  Result<void> realize() override REQUIRES(bql) { return ok(); }
  void unrealize() override REQUIRES(bql) {}
  ScsiOutcome execute(Co& co, ScsiRequest& request) override {
    ++executed;
    switch (request.cdb[0]) {
      case kPark:
        request.park();
        wait(co, request, Ends::kIfCancelled);
        request.unpark();
        if (after_parking) after_parking(co);
        break;
      case kStuck:
        wait(co, request, Ends::kIfLetGo);
        break;
      case kFail:
        return ScsiOutcome::check({devices::ScsiSenseKey::kMediumError, 0x11, 0, 7},
                                  request.data_in.size / 2);
      case kFill:
        request.data_in.copy_from(0, std::vector(request.data_in.size, std::byte{1}));
        return ScsiOutcome::good(request.data_in.size);
      case kTake:
        return take(request);
      default:
        break;
    }
    if (request.cancelled()) return {.end = request.cancelled_end()};
    return ScsiOutcome::good(0);
  }
  bool changes_are_events() const noexcept override { return !is_drive; }
  void wake_cancelled() override { wake(Ends::kIfCancelled); }
  void reset() override { ++resets; }

  /// Everything that waits goes on.
  void let_go() { wake(Ends::kIfLetGo); }
  size_t waiting() {
    MutexLock lock(mutex_);
    return waiting_.size();
  }
  void attention(const ScsiSense& sense) { owner()->attention(*this, sense); }
  bool has_owner() const { return owner() != nullptr; }

  /// Called by requests that were parked, before they end. Set before the first.
  std::function<void(Co&)> after_parking;
  std::atomic<bool> is_drive = false;  ///< for CDs
  std::atomic<unsigned> executed = 0, resets = 0, taken = 0;

 private:
  enum class Ends : uint8_t { kIfCancelled, kIfLetGo };
  struct Waiting {
    Coroutine* coroutine;
    const ScsiRequest* request;
    Ends ends;
  };

  ScsiOutcome take(const ScsiRequest& request) {
    std::vector<std::byte> data(request.data_out.size);
    request.data_out.copy_to(0, data);
    for (const std::byte byte : data) taken += std::to_integer<unsigned>(byte);
    return ScsiOutcome::good(data.size());
  }
  void wait(Co& co, const ScsiRequest& request, Ends ends) {
    {
      MutexLock lock(mutex_);
      // Whoever cancels it later finds it in the list.
      if (ends == Ends::kIfCancelled && request.cancelled()) return;
      waiting_.push_back({&co.coroutine(), &request, ends});
    }
    co.yield();
  }
  void wake(Ends why) {
    std::vector<Coroutine*> woken;
    {
      MutexLock lock(mutex_);
      std::erase_if(waiting_, [&](const Waiting& one) {
        const bool ends =
            why == Ends::kIfLetGo || (one.ends == Ends::kIfCancelled && one.request->cancelled());
        if (ends) woken.push_back(one.coroutine);
        return ends;
      });
    }
    for (Coroutine* coroutine : woken) coroutine->wake();
  }

  // The rank of the bus's own lock: it must not be held when a unit is called.
  Mutex mutex_{LockRank::kDeviceQueue};
  std::vector<Waiting> waiting_ GUARDED_BY(mutex_);
};

/// A command with memory of its own.
class FakeRequest final : public ScsiRequest {
 public:
  explicit FakeRequest(std::initializer_list<uint8_t> command, size_t in_bytes = 0, uint64_t id = 0)
      : memory(in_bytes, std::byte{0xff}) {
    std::ranges::copy(command, cdb.begin());
    piece_ = {memory.data(), memory.size()};
    if (in_bytes != 0) data_in = {std::span(&piece_, 1), in_bytes};
    tag = id;
  }
  void park() override { ++parks; }
  void unpark() override { ++unparks; }

  std::vector<std::byte> memory;
  unsigned parks = 0, unparks = 0;

 private:
  iovec piece_;
};

}  // namespace rhea::test
