#include "util/semaphore.h"

namespace rhea {

void Semaphore::post() {
  MutexLock lock(mutex_);
  ++tokens_;
  changed_.notify_one();
}

bool Semaphore::wait() {
  MutexLock lock(mutex_);
  while (tokens_ == 0 && !closed_) changed_.wait(mutex_);
  if (tokens_ == 0) return false;
  --tokens_;
  return true;
}

void Semaphore::close() {
  MutexLock lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

unsigned Semaphore::tokens() const {
  MutexLock lock(mutex_);
  return tokens_;
}

}  // namespace rhea
