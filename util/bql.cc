#include "util/bql.h"

#include "util/check.h"
#include "util/lock_rank.h"

namespace rhea {
namespace {

thread_local bool t_holds_bql = false;

}  // namespace

BigLock bql;

void BigLock::lock() {
  internal::note_lock_acquire(LockRank::kBql);
  mutex_.lock();
  t_holds_bql = true;
  acquisitions_.fetch_add(1, std::memory_order_relaxed);
}

void BigLock::unlock() {
  t_holds_bql = false;
  mutex_.unlock();
  internal::note_lock_release(LockRank::kBql);
}

bool BigLock::held() const noexcept { return t_holds_bql; }

void BigLock::assert_held() const noexcept { RHEA_CHECK(t_holds_bql, "the BQL must be held"); }

void BigLock::assert_not_held() const noexcept {
  RHEA_CHECK(!t_holds_bql, "the BQL must not be held");
}

}  // namespace rhea
