// SyncBarrier: no channel goes on with the next round before all have stored the last one's pages.
#pragma once

#include <cstdint>
#include <vector>

#include "util/mutex.h"

namespace rhea::migration {

/// Two copies of a page from different rounds may travel on different channels. Each channel ends a
/// round with a numbered sync and waits here for the others, so the older copy can not be the
/// later.
///
/// Thread: any. Invariants: a wait ends when all have arrived,
/// or when one that is still needed has left, or at stop(); never later.
class SyncBarrier {
 public:
  explicit SyncBarrier(unsigned channels) : arrived_(channels, 0), left_(channels, false) {}

  /// The channel has come to sync `number`.
  void note(unsigned channel, uint64_t number) EXCLUDES(mutex_);
  /// The channel ends, and will come to no further sync.
  void leave(unsigned channel) EXCLUDES(mutex_);
  /// Waits until all channels have come to sync `number`; false if they will not. A channel that
  /// has come itself goes on when this returns.
  [[nodiscard]] bool wait_all(uint64_t number) EXCLUDES(mutex_);
  /// Ends all waits.
  void stop() EXCLUDES(mutex_);

 private:
  enum class Outlook : uint8_t { kAllCame, kOpen, kHopeless };
  Outlook outlook(uint64_t number) const REQUIRES(mutex_);

  Mutex mutex_{LockRank::kLeaf};
  CondVar changed_;
  std::vector<uint64_t> arrived_ GUARDED_BY(mutex_);
  std::vector<bool> left_ GUARDED_BY(mutex_);
  bool stopped_ GUARDED_BY(mutex_) = false;
};

}  // namespace rhea::migration
