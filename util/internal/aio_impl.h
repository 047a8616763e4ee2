// AioContext's inside, shared by the context, its watches, its bottom halves and the main loop.
#pragma once

#include <poll.h>
#include <sys/epoll.h>

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "util/aio_context.h"
#include "util/fd.h"
#include "util/internal/busy_poll.h"
#include "util/internal/ring_core.h"
#include "util/internal/thread_state.h"
#include "util/internal/work_list.h"
#include "util/io_ring.h"
#include "util/notify_gate.h"
#include "util/timer.h"

namespace rhea {

/// A bottom half in the context's list; lives until it is both unlisted and unwanted.
struct Bh::Node {
  /// It sits in the list: a second schedule finds it there.
  static constexpr uint8_t kListed = 1;
  /// It is to run when the list comes to it; cancel() takes that back.
  static constexpr uint8_t kScheduled = 2;

  AioContext::Impl* context = nullptr;
  std::move_only_function<void()> callback;
  std::atomic<Node*> next{nullptr};
  std::atomic<uint8_t> state{0};
  // Home thread only from here on.
  bool running = false;
  bool orphaned = false;  // a post, or a Bh that is gone: whoever is done with it last deletes it
};

struct FdWatch::State {
  AioContext::Impl* context = nullptr;
  int fd = -1;
  FdEvents events = FdEvents::kNone;
  std::move_only_function<void(FdEvents)> callback;
  std::move_only_function<bool()> ready;
  FdWatch::BusyPollSpan span;
  bool dead = false;

  bool reads() const noexcept { return has(events, FdEvents::kRead); }
};

struct AioContext::Impl {
  /// Who may poll, beyond the rules for all.
  enum class Role : uint8_t {
    kOrdinary,     ///< the home thread
    kMainBlock,    ///< main, with the BQL
    kMainService,  ///< the main loop itself, never nested
  };

  explicit Impl(std::string n)
      : name(std::move(n)), timers(host_clock, [this] { wake_sleeper(); }) {}
  ~Impl();

  Result<void> open();

  // Any thread.
  void schedule(Bh::Node& node);
  /// For work that every poll looks for before it sleeps.
  void wake_sleeper();

  // Home thread.
  void assert_home(const char* what) const;
  void assert_may_poll() const;
  bool has_pending() const noexcept;
  /// Host time a poll may sleep: zero if something is pending.
  Nanoseconds sleep_limit() const;
  /// Waits for descriptors and for what is in the ring, and submits what is queued there; returns
  /// the number of entries in `events`. What completed is among `taken_resumables` then.
  size_t wait(Nanoseconds limit);
  size_t wait_in_epoll(Nanoseconds limit);
  /// Submits what is queued in the ring and collects what has completed, without waiting.
  void look_at_ring() {
    if (ring_is_busy()) core->look();
  }
  /// Whether a sleep must be one in the ring. An idle one is left alone: a sleep in epoll is
  /// cheaper to wake from, and the host would count a sleep in the ring as waiting for I/O.
  bool ring_is_busy() const noexcept { return ring != nullptr && core->in_flight() > 0; }
  /// The blocking wait of one poll, busy-polling included.
  size_t wait_for_work();
  size_t sleep();
  std::optional<size_t> look_around(Nanoseconds end);
  size_t add_ready_watches(size_t ready);
  bool is_among_events(const FdWatch::State* state, size_t ready) const;
  void begin_busy_poll();
  void end_busy_poll(size_t ready);

  /// Everything between a wait that left `ready` entries and the next look: clear the eventfd, then
  /// consume.
  bool dispatch(size_t ready);
  bool run_watches(size_t ready);
  bool run_bottom_halves();
  bool run(Bh::Node& node);
  bool run_resumables();

  void open_ring(AioContext& context);
  void close_ring() noexcept;
  void destroy_bottom_halves() noexcept;
  void control(int operation, FdWatch::State& state) const;
  void forget(std::unique_ptr<FdWatch::State> state);

  static constexpr size_t kEventsPerTurn = 64;

  const std::string name;
  HostClock host_clock;
  TimerList timers;
  std::atomic<const internal::ThreadState*> home{nullptr};
  Role role = Role::kOrdinary;
  Fd epoll;
  Fd wake;
  NotifyGate gate;
  std::atomic<bool> nudged{false};  // by notify()
  internal::WorkList<Bh::Node, &Bh::Node::next> bottom_halves;
  internal::WorkList<Resumable, &Resumable::next_resumable> resumables;
  std::atomic<uint64_t> kicks{0};  // relaxed: a statistic, orders nothing

  // Home thread only from here on.
  // Taken and not yet run. Members, so that a nested poll goes on where the outer one stands: what
  // it waits for may be next in line.
  internal::TakenList<Bh::Node, &Bh::Node::next> taken_bottom_halves;
  internal::TakenList<Resumable, &Resumable::next_resumable> taken_resumables;
  std::array<epoll_event, kEventsPerTurn> events{};
  std::unique_ptr<IoRing> ring;        // null until it is asked for, and where the host refuses
  internal::RingCore* core = nullptr;  // the ring's
  std::string ring_refusal;
  internal::BusyPoll busy_poll;
  size_t watches = 0;
  std::vector<FdWatch::State*> ready_checks;               // those watches that have one
  unsigned depth = 0;                                      // nested dispatches
  std::vector<std::unique_ptr<FdWatch::State>> graveyard;  // watches that ended during a dispatch
};

namespace internal {

/// ppoll(2) with `limit` to the nanosecond (max(): for ever). How many are ready; 0 for a signal.
size_t wait_for_any(std::span<pollfd> fds, Nanoseconds limit);

/// What every poll of every loop demands of its caller.
void assert_poll_is_legal();

}  // namespace internal

}  // namespace rhea
