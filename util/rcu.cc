#include "util/rcu.h"

// The small inline functions may be used by code of any licence; the rest is called.
#define URCU_INLINE_SMALL_FUNCTIONS
#include <urcu/urcu-memb.h>

#include "util/bql.h"
#include "util/check.h"
#include "util/internal/sanitizer.h"
#include "util/internal/thread_state.h"

#ifdef RHEA_TSAN
#include <sanitizer/tsan_interface.h>

// liburcu is not instrumented: its own mutexes and its use of malloc look like races.
// Guest RAM is sent while guest and devices write to it: what was torn is dirty, and goes again.
extern "C" const char* __tsan_default_suppressions() {
  return "called_from_lib:liburcu-memb.so\nrace:migration::Channel::write_some\n";
}
#endif

namespace rhea {
namespace {

thread_local bool t_registered = false;
thread_local bool t_in_callback = false;

// TSan does not see liburcu's membarrier-based ordering. One address stands for "the grace period":
// readers release it when they leave, callbacks acquire it before they free. A free that skips the
// grace period is still reported, because then nothing acquires.
[[maybe_unused]] char tsan_grace_period;

void tsan_release_grace_period() {
#ifdef RHEA_TSAN
  __tsan_release(&tsan_grace_period);
#endif
}

void tsan_acquire_grace_period() {
#ifdef RHEA_TSAN
  __tsan_acquire(&tsan_grace_period);
#endif
}

struct DeferredCall : rcu_head {
  std::move_only_function<void()> callback;
};

void run_deferred(rcu_head* head) {
  tsan_acquire_grace_period();
  // liburcu registers its own thread: a callback may read, and retire what its object held.
  t_registered = true;
  t_in_callback = true;
  std::unique_ptr<DeferredCall> call(static_cast<DeferredCall*>(head));
  call->callback();
}

void assert_may_wait() {
  RHEA_CHECK(t_registered, "thread is not registered with RCU");
  RHEA_CHECK(!t_in_callback, "waiting for readers on the RCU thread");
  RHEA_CHECK(!rcu.in_read_section(), "waiting for readers inside a read section");
  bql.assert_not_held();
}

}  // namespace

RcuDomain rcu;

void RcuDomain::read_lock() {
  RHEA_CHECK(t_registered, "thread is not registered with RCU");
  ++internal::thread_state().rcu_depth;
  urcu_memb_read_lock();
}

void RcuDomain::read_unlock() {
  tsan_release_grace_period();
  urcu_memb_read_unlock();
  --internal::thread_state().rcu_depth;
}

bool RcuDomain::in_read_section() const noexcept { return internal::thread_state().rcu_depth != 0; }

void RcuDomain::assert_read_section() const noexcept {
  RHEA_CHECK(in_read_section(), "not in an RCU read section");
}

RcuThread::RcuThread() {
  RHEA_CHECK(!t_registered, "thread is already registered with RCU");
  urcu_memb_register_thread();
  t_registered = true;
}

RcuThread::~RcuThread() {
  RHEA_CHECK(!rcu.in_read_section(), "thread ends inside a read section");
  t_registered = false;
  urcu_memb_unregister_thread();
}

void rcu_call(std::move_only_function<void()> callback) {
  RHEA_CHECK(t_registered, "thread is not registered with RCU");
  auto call = std::make_unique<DeferredCall>();
  call->callback = std::move(callback);
  tsan_release_grace_period();
  urcu_memb_call_rcu(call.release(), run_deferred);
}

void rcu_synchronize() {
  assert_may_wait();
  urcu_memb_synchronize_rcu();
  tsan_acquire_grace_period();
}

void rcu_drain_callbacks() {
  assert_may_wait();
  urcu_memb_barrier();
  tsan_acquire_grace_period();
}

}  // namespace rhea
