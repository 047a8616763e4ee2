#include "migration/sync_barrier.h"

namespace rhea::migration {

SyncBarrier::Outlook SyncBarrier::outlook(uint64_t number) const {
  Outlook result = Outlook::kAllCame;
  for (size_t i = 0; i < arrived_.size(); ++i) {
    if (arrived_[i] >= number) continue;
    if (left_[i]) return Outlook::kHopeless;
    result = Outlook::kOpen;
  }
  return result;
}

void SyncBarrier::note(unsigned channel, uint64_t number) {
  MutexLock lock(mutex_);
  arrived_[channel] = number;
  changed_.notify_all();
}

void SyncBarrier::leave(unsigned channel) {
  MutexLock lock(mutex_);
  left_[channel] = true;
  changed_.notify_all();
}

bool SyncBarrier::wait_all(uint64_t number) {
  MutexLock lock(mutex_);
  for (;;) {
    if (stopped_) return false;
    const Outlook now = outlook(number);
    if (now != Outlook::kOpen) return now == Outlook::kAllCame;
    changed_.wait(mutex_);
  }
}

void SyncBarrier::stop() {
  MutexLock lock(mutex_);
  stopped_ = true;
  changed_.notify_all();
}

}  // namespace rhea::migration
