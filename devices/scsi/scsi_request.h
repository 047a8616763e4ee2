// ScsiRequest: one command to a logical unit, and what became of it.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "block/io_vector.h"
#include "devices/scsi/scsi_sense.h"

namespace rhea::devices {

/// Where a logical unit sits on its bus.
struct ScsiAddress {
  uint8_t channel = 0;
  uint8_t target = 0;
  uint16_t lun = 0;
  auto operator<=>(const ScsiAddress&) const = default;
};

/// How a command has ended.
struct ScsiOutcome {
  enum class End : uint8_t {
    kCompleted,  ///< `status`, and with CHECK CONDITION `sense`, say how
    kOverrun,    ///< not begun: the command wants more data than there is memory for
    kAborted,    ///< cancelled by a task management function or because the unit goes
    kReset,      ///< cancelled by a reset
    kNoTarget,   ///< nothing is at this address
  };
  End end = End::kCompleted;
  ScsiStatus status = ScsiStatus::kGood;
  ScsiSense sense{};
  uint64_t transferred = 0;  ///< bytes read from data_out, or written to data_in from its start

  static ScsiOutcome good(uint64_t transferred) { return {.transferred = transferred}; }
  static ScsiOutcome check(const ScsiSense& sense, uint64_t transferred = 0) {
    return {.status = ScsiStatus::kCheckCondition, .sense = sense, .transferred = transferred};
  }
};

/// A command, on the stack of the coroutine that carries it out. The transport fills it in and
/// derives from it to be told when it waits.
///
/// Thread: its coroutine's, but for cancel() and cancelled(). Owns nothing: the memory of the data
/// is guest RAM that stays while the request lasts, and that the guest may change at any time.
class ScsiRequest {
 public:
  static constexpr size_t kCdbSize = 32;

  virtual ~ScsiRequest() = default;
  ScsiRequest(const ScsiRequest&) = delete;
  ScsiRequest& operator=(const ScsiRequest&) = delete;

  std::array<uint8_t, kCdbSize> cdb{};  ///< zeros behind what the initiator sent
  block::IoVector data_out, data_in;    ///< as large as the initiator made them
  uint64_t tag = 0;                     ///< the initiator's name for it; need not be unique

  /// The request waits for a person from park() to unpark() (an I/O error has stopped the machine):
  /// a drain does not wait for it. On its coroutine.
  virtual void park() = 0;
  virtual void unpark() = 0;
  /// Its initiator, or the transport's reset, has given up on it: end soon, with kAborted or kReset
  /// as cancelled_end() says. Looked at between steps; what the host does is not interrupted.
  bool cancelled() const noexcept {
    return cancelled_.load(std::memory_order_acquire) != ScsiOutcome::End::kCompleted;
  }
  ScsiOutcome::End cancelled_end() const noexcept {
    return cancelled_.load(std::memory_order_acquire);
  }
  /// Any thread. The first reason stands. Who calls it also wakes the request where it is parked.
  void cancel(ScsiOutcome::End end) noexcept {
    ScsiOutcome::End none = ScsiOutcome::End::kCompleted;
    // release: pairs with the acquires above
    cancelled_.compare_exchange_strong(none, end, std::memory_order_acq_rel);
  }

 protected:
  ScsiRequest() = default;

 private:
  std::atomic<ScsiOutcome::End> cancelled_{ScsiOutcome::End::kCompleted};
};

}  // namespace rhea::devices
