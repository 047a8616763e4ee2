// Stackful coroutines: request code that reads top to bottom and suspends in the middle.
//
// A coroutine belongs to an Executor and runs only on that executor's home thread. Because its
// stack is its own, a suspension is an ordinary call that the compiler can not see; so:
//  - a function that may suspend takes `Co& co` as its first parameter. Only the scheduler makes
//  one.
//  - yield() aborts while a lock other than the BQL is held, or inside an RCU read section.
//  - no thread-local address, errno or catch handler is kept across a yield: after move_to() the
//    coroutine may be on another thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "util/error.h"
#include "util/executor.h"

namespace rhea {

namespace internal {
struct CoroutineStack;
}  // namespace internal

class Co;

/// A suspended or running coroutine, as others see it: something to wake.
///
/// Lives on its own stack and dies when its body returns: whoever waits for that arranges it.
/// Thread: wake() from any thread; all else is the scheduler's.
/// Invariants: exactly one wake() for each suspension.
class Coroutine final : public Resumable {
 public:
  /// Resumes it on its executor's home thread, soon. It may still be on its way into yield().
  void wake() { executor_->resume_later(*this); }

  /// Switches to it; returns when it suspends or ends. Home thread; called by the executor.
  void resume() override;

 private:
  friend class Co;
  using Body = void (*)(void* closure, Co& co);

  Coroutine(Executor& executor, internal::CoroutineStack& stack, Body body, void* closure)
      : executor_(&executor), stack_(stack), body_(body), closure_(closure) {}
  ~Coroutine() = default;

  template <class F>
  friend Result<void> spawn(Executor& executor, F&& body);
  template <class F>
  friend Result<void> start_here(Executor& executor, F&& body);
  template <class F>
  static Result<Coroutine*> make(Executor& executor, F&& body);
  static Coroutine* place(Executor& executor, internal::CoroutineStack& stack, std::byte* below,
                          Body body, void* closure);
  static Result<internal::CoroutineStack*> take_stack();
  static std::byte* top_of(const internal::CoroutineStack& stack) noexcept;

  struct Entry;
  enum class State : uint8_t { kReady, kRunning, kSuspended, kEnded };

  void suspend();
  void switch_in();
  void switch_out();

  Executor* executor_;
  Executor* next_executor_ = nullptr;  // set by move_to() until the switch is done
  internal::CoroutineStack& stack_;
  const Body body_;
  void* const closure_;
  State state_ = State::kReady;
  void* inside_ = nullptr;   // where to jump to resume it
  void* outside_ = nullptr;  // where to jump to leave it
  uint32_t section_depth_ = 0;

  // Sanitizers only.
  void* outer_fiber_ = nullptr;
  void* fake_stack_inside_ = nullptr;
  void* fake_stack_outside_ = nullptr;
  const void* outer_stack_bottom_ = nullptr;
  size_t outer_stack_size_ = 0;
};

/// The token that says "this code runs in a coroutine and may suspend".
class Co {
 public:
  Co(const Co&) = delete;
  Co& operator=(const Co&) = delete;

  /// Suspends until someone calls coroutine().wake().
  void yield() { coroutine_.suspend(); }
  /// Goes on at the back of the executor's queue.
  void reschedule() {
    coroutine_.wake();
    yield();
  }
  /// Goes on on another executor's home thread.
  void move_to(Executor& executor);

  Coroutine& coroutine() noexcept { return coroutine_; }
  Executor& executor() const noexcept { return *coroutine_.executor_; }
  /// For whoever gives coroutines sections that may not nest: how many this one is in. 0 at first;
  /// goes with the coroutine from thread to thread.
  uint32_t& section_depth() noexcept { return coroutine_.section_depth_; }

 private:
  friend struct Coroutine::Entry;
  explicit Co(Coroutine& coroutine) : coroutine_(coroutine) {}
  Coroutine& coroutine_;
};

/// Whether the calling code runs inside a coroutine.
bool in_coroutine() noexcept;

/// Starts a coroutine that runs `body(Co&)` on `executor`, soon. Any thread. No heap allocation
/// once the stack pool is warm: `body` is moved onto the coroutine's own stack. What it captures
/// must outlive it. Errors: kResource when there are too many coroutines; nothing was started.
template <class F>
Result<void> spawn(Executor& executor, F&& body);

/// As spawn, but runs at once, until its first suspension, on the calling thread, which must be the
/// executor's home thread, outside coroutines.
template <class F>
Result<void> start_here(Executor& executor, F&& body);

template <class F>
Result<Coroutine*> Coroutine::make(Executor& executor, F&& body) {
  using Closure = std::remove_cvref_t<F>;
  internal::CoroutineStack* stack = TRY(take_stack());
  std::byte* top = top_of(*stack);
  // The closure at the very top of the stack, everything else below it.
  const auto address = (reinterpret_cast<uintptr_t>(top) - sizeof(Closure)) & ~uintptr_t{63};
  std::byte* place_for = top - (reinterpret_cast<uintptr_t>(top) - address);
  static_assert(alignof(Closure) <= 64);
  auto* closure = new (place_for) Closure(std::forward<F>(body));
  const auto run = [](void* c, Co& co) {
    auto* self = static_cast<Closure*>(c);
    (*self)(co);
    self->~Closure();
  };
  return place(executor, *stack, place_for, run, closure);
}

template <class F>
Result<void> spawn(Executor& executor, F&& body) {
  Coroutine* coroutine = TRY(Coroutine::make(executor, std::forward<F>(body)));
  coroutine->wake();
  return ok();
}

template <class F>
Result<void> start_here(Executor& executor, F&& body) {
  Coroutine* coroutine = TRY(Coroutine::make(executor, std::forward<F>(body)));
  coroutine->resume();
  return ok();
}

}  // namespace rhea
