// AioContext: an event loop with a home thread. Descriptors, bottom halves and timers live here.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "util/clock.h"
#include "util/error.h"
#include "util/executor.h"
#include "util/thread_annotations.h"

namespace rhea {

class AioContext;
class IoRing;
class TimerList;

/// Readiness of a descriptor. Errors and hang-ups are reported as both, to whoever waits for any.
enum class FdEvents : uint8_t { kNone = 0, kRead = 1, kWrite = 2, kReadWrite = 3 };
constexpr bool has(FdEvents set, FdEvents event) {
  return (static_cast<uint8_t>(set) & static_cast<uint8_t>(event)) != 0;
}

/// A bottom half: a callback that runs once on its context's home thread for each time it was
/// scheduled since it last ran (many schedules before it runs give one run). One that schedules
/// itself runs again in the next turn.
/// Thread: schedule() from any thread; construction anywhere; destruction and cancel() on the home
/// thread, or once the context no longer polls. May be destroyed inside its own callback.
/// Invariants: what was written before schedule() is visible to the run that follows.
class Bh {
 public:
  Bh(AioContext& context, std::move_only_function<void()> callback);
  ~Bh();
  Bh(const Bh&) = delete;
  Bh& operator=(const Bh&) = delete;

  /// Allocates nothing.
  void schedule();
  /// Takes back what was scheduled and has not run yet.
  void cancel();

 private:
  friend class AioContext;
  struct Node;  // outlives the Bh while it sits in the context's lock-free list
  Node* node_;
};

/// Watches one descriptor for as long as it lives. Level-triggered.
/// Thread: home thread of the context, or any once the context no longer polls. May be destroyed or
/// changed inside any callback of the context, its own included; it is not called after that.
/// Invariants: the descriptor outlives it, and it does not outlive the context.
class FdWatch {
 public:
  FdWatch();
  FdWatch(FdWatch&&) noexcept;
  FdWatch& operator=(FdWatch&&) noexcept;
  ~FdWatch();

  /// With kNone nothing is reported, not even a hang-up.
  void set_events(FdEvents events);
  /// Around the time in which a context asks ready checks. What they do is what `ready` may.
  struct BusyPollSpan {
    std::move_only_function<void()> begins;
    /// Not called if `ready` has said yes: the callback comes instead. What arrives from now on
    /// has to make the descriptor ready; so has what arrived just before and was not asked for.
    std::move_only_function<void()> ends;
  };
  /// Tells the context how to see, without a system call, that the callback has something to do: it
  /// asks while it busy-polls and calls the callback with kRead when `ready` says so; not while the
  /// watch is not for reading. `ready` runs in a tight loop and may neither change watches nor
  /// poll. Empty: only the descriptor counts.
  void set_ready_check(std::move_only_function<bool()> ready) {
    set_ready_check(std::move(ready), {});
  }
  void set_ready_check(std::move_only_function<bool()> ready, BusyPollSpan span);
  explicit operator bool() const noexcept { return state_ != nullptr; }

 private:
  friend class AioContext;
  struct State;
  explicit FdWatch(std::unique_ptr<State> state);
  void end();
  std::unique_ptr<State> state_;
};

enum class PollMode : uint8_t { kNonBlocking, kBlocking };

/// Adaptive busy-polling of a context: before a blocking poll sleeps it looks around for a span
/// that grows while work keeps coming within `longest` and shrinks when it does not.
struct BusyPollParams {
  Nanoseconds longest{0};  ///< bound of the span; 0 switches busy-polling off
  uint32_t grow = 2;       ///< factor of growth, at least 1
  uint32_t shrink = 0;     ///< divisor; 0: down to nothing at once
};

/// What a folder above keeps for each context, and finds again from a coroutine that runs there.
struct AioExtension {
  virtual ~AioExtension() = default;
};

/// One event loop.
///
/// A turn runs, each in its order of arrival: descriptors, bottom halves and posts, resumables,
/// timers.
///
/// Thread: `schedule`-like calls (Bh::schedule, post, resume_later, notify) from any thread; all
/// else on the home thread, which is the one that polls it. No other thread ever polls a context.
/// Invariants: no thread sleeps in poll while a bottom half is pending and un-notified (I7). Once
/// running, a turn allocates nothing.
class AioContext final : public Executor {
 public:
  /// `name` shows in traces. The calling thread becomes the home thread; see rebind_home().
  static Result<std::unique_ptr<AioContext>> create(std::string name);
  /// The context no longer polls, its watches are gone and its timers are not armed. Posts that did
  /// not run are destroyed.
  ~AioContext() override;

  /// Runs `callback` once on the home thread, in posting order. Any thread.
  void post(std::move_only_function<void()> callback);
  void resume_later(Resumable& resumable) override;
  /// Makes the blocking poll that is under way, or else the next one, return. Any thread.
  void notify();

  /// Watches `fd` (not owned; must outlive the watch). `callback` gets what is ready; a nested poll
  /// may have served it since, so a non-blocking descriptor is advised.
  /// Errors: a kind of file that can not be waited for (a regular file); watched here already.
  Result<FdWatch> watch(int fd, FdEvents events, std::move_only_function<void(FdEvents)> callback);

  /// Timers on host monotonic time.
  TimerList& timers() noexcept;

  /// One turn: waits if told to and nothing is pending, then runs what is ready. True if anything
  /// ran. Nested calls are legal on the home thread outside coroutines, RCU sections and locks.
  bool poll(PollMode mode);

  /// Home thread.
  void set_busy_poll(const BusyPollParams& params);
  /// Writes of the wake-up descriptor so far; for tests and statistics.
  uint64_t kicks() const noexcept;

  /// Whether the calling thread is the home thread.
  bool is_home() const noexcept;
  /// Makes the calling thread the home thread; only while nobody polls. The ring goes; the new
  /// home gets its own.
  void rebind_home() noexcept;
  const std::string& name() const noexcept;

  /// This context's ring for file I/O, made when it is first asked for; null when the host refuses
  /// one, which is logged once. Home thread.
  IoRing* io_ring();
  /// Why io_ring() gives null; empty unless it did. Home thread.
  const std::string& io_ring_refusal() const;

  AioContext* aio() noexcept override { return this; }
  /// Owned elsewhere; it outlives the context or is taken off before. There is one slot, for the
  /// block layer. Any thread.
  void set_extension(AioExtension* extension) noexcept {
    // release: pairs with extension(), whose caller sees what the record holds
    extension_.store(extension, std::memory_order_release);
  }
  /// Null if there is none. Any thread.
  AioExtension* extension() const noexcept {
    return extension_.load(std::memory_order_acquire);  // pairs with set_extension()
  }

 private:
  friend class MainLoop;
  friend class MainWait;
  friend class Bh;
  friend class FdWatch;
  struct Impl;
  explicit AioContext(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
  std::atomic<AioExtension*> extension_{nullptr};
};

}  // namespace rhea
