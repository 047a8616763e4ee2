#include "util/coroutine.h"

#include <boost/context/detail/fcontext.hpp>

#include "util/check.h"
#include "util/internal/coroutine_stack.h"
#include "util/internal/sanitizer.h"
#include "util/internal/thread_state.h"
#include "util/lock_rank.h"
#include "util/rcu.h"

#ifdef RHEA_TSAN
#include <sanitizer/tsan_interface.h>
#endif
#ifdef RHEA_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

namespace rhea {
namespace {

using boost::context::detail::fcontext_t;
using boost::context::detail::jump_fcontext;
using boost::context::detail::make_fcontext;
using boost::context::detail::transfer_t;

constexpr uint32_t kBqlBit = 1U << static_cast<unsigned>(LockRank::kBql);

void check_nothing_held(const internal::ThreadState& thread, const char* what) {
  RHEA_CHECK((thread.held_locks & ~kBqlBit) == 0, "{} with a lock held", what);
  RHEA_CHECK(thread.rcu_depth == 0, "{} inside an RCU read section", what);
}

}  // namespace

/// The first frame of a coroutine.
struct Coroutine::Entry {
  // Not seen by TSan: the frame is never left, and would pile up on the pooled fiber's shadow
  // stack.
  RHEA_NO_TSAN static void run(transfer_t from) {
    auto* self = static_cast<Coroutine*>(from.data);
    self->outside_ = from.fctx;
#ifdef RHEA_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &self->outer_stack_bottom_, &self->outer_stack_size_);
#endif
    {
      Co co(*self);
      self->body_(self->closure_, co);
    }
    self->state_ = State::kEnded;
    self->switch_out();
    RHEA_UNREACHABLE("an ended coroutine was resumed");
  }
};

Result<internal::CoroutineStack*> Coroutine::take_stack() { return internal::take_stack(); }

std::byte* Coroutine::top_of(const internal::CoroutineStack& stack) noexcept { return stack.top(); }

Coroutine* Coroutine::place(Executor& executor, internal::CoroutineStack& stack, std::byte* below,
                            Body body, void* closure) {
  constexpr size_t kSpace = (sizeof(Coroutine) + 63) & ~size_t{63};
  std::byte* space = below - kSpace;
  auto* self = new (space) Coroutine(executor, stack, body, closure);
  self->inside_ = make_fcontext(space, static_cast<size_t>(space - stack.base), Entry::run);
  return self;
}

// The one place that leaves the current stack for a coroutine's.
RHEA_NO_TSAN void Coroutine::switch_in() {
#ifdef RHEA_ASAN
  __sanitizer_start_switch_fiber(&fake_stack_outside_, stack_.base, internal::kStackBytes);
#endif
#ifdef RHEA_TSAN
  outer_fiber_ = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(stack_.tsan_fiber, 0);
#endif
  const transfer_t back = jump_fcontext(inside_, this);
  inside_ = back.fctx;
#ifdef RHEA_ASAN
  __sanitizer_finish_switch_fiber(fake_stack_outside_, nullptr, nullptr);
#endif
}

// The one place that leaves a coroutine's stack.
RHEA_NO_TSAN void Coroutine::switch_out() {
#ifdef RHEA_ASAN
  // A null fake stack tells ASan that this stack is left for good.
  __sanitizer_start_switch_fiber(state_ == State::kEnded ? nullptr : &fake_stack_inside_,
                                 outer_stack_bottom_, outer_stack_size_);
#endif
#ifdef RHEA_TSAN
  __tsan_switch_to_fiber(outer_fiber_, 0);
#endif
  const transfer_t back = jump_fcontext(outside_, nullptr);
  outside_ = back.fctx;
#ifdef RHEA_ASAN
  __sanitizer_finish_switch_fiber(fake_stack_inside_, &outer_stack_bottom_, &outer_stack_size_);
#endif
}

void Coroutine::resume() {
  RHEA_CHECK(state_ == State::kReady || state_ == State::kSuspended,
             "a coroutine was resumed that is not suspended");
  // Stays this thread's state across the switch: this frame is not on the coroutine's stack.
  internal::ThreadState& thread = internal::thread_state();
  check_nothing_held(thread, "coroutine entry");
  Coroutine* outer = std::exchange(thread.current, this);
  state_ = State::kRunning;
  switch_in();
  thread.current = outer;
  if (state_ == State::kEnded) {
    internal::CoroutineStack& stack = stack_;
    this->~Coroutine();  // lives on that stack
    return internal::give_stack(&stack);
  }
  // Only now is it off its stack, so only now may another thread resume it.
  if (next_executor_ != nullptr) {
    executor_ = std::exchange(next_executor_, nullptr);
    executor_->resume_later(*this);
  }
}

void Coroutine::suspend() {
  const internal::ThreadState& thread = internal::thread_state();
  RHEA_CHECK(thread.current == this, "yield outside the coroutine");
  check_nothing_held(thread, "yield");
  state_ = State::kSuspended;
  switch_out();
}

void Co::move_to(Executor& executor) {
  if (&executor == coroutine_.executor_) return;
  coroutine_.next_executor_ = &executor;
  yield();
}

bool in_coroutine() noexcept { return internal::thread_state().current != nullptr; }

}  // namespace rhea
