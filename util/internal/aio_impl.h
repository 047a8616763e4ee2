// AioContext's inside, shared by the context, its watches, its bottom halves and the main loop.
#pragma once

#include <sys/epoll.h>

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "util/aio_context.h"
#include "util/fd.h"
#include "util/internal/work_list.h"
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
  bool dead = false;
};

struct AioContext::Impl {
  explicit Impl(std::string n) : name(std::move(n)), timers(host_clock, [this] { notify(); }) {}
  ~Impl();

  Result<void> open();

  // Any thread.
  void schedule(Bh::Node& node);
  void notify();

  // Home thread.
  void assert_home(const char* what) const;
  bool has_pending() const noexcept;
  /// Host time a poll may sleep: zero if something is pending.
  Nanoseconds sleep_limit() const;
  /// Waits on the context's own epoll instance; returns the number of ready descriptors.
  size_t wait(Nanoseconds limit);
  /// Everything between a wait that returned `ready` descriptors and the next look: clear the
  /// eventfd, then consume.
  bool dispatch(size_t ready);
  void control(int operation, FdWatch::State& state) const;
  void bury(std::unique_ptr<FdWatch::State> state);

  void run(Bh::Node& node);
  bool run_bottom_halves();
  bool run_resumables();
  bool run_watches(size_t ready);
  bool look_around();

  static constexpr size_t kEventsPerTurn = 64;

  const std::string name;
  HostClock host_clock;
  TimerList timers;
  std::atomic<int> home{0};  // thread id
  Fd epoll;
  Fd wake;
  NotifyGate gate;
  internal::WorkList<Bh::Node, &Bh::Node::next> bottom_halves;
  internal::WorkList<Resumable, &Resumable::next_resumable> resumables;
  // Taken and not yet run. Members, so that a nested poll goes on where the outer one stands: what
  // it waits for may be next in line. Home thread only.
  internal::TakenList<Bh::Node, &Bh::Node::next> taken_bottom_halves;
  internal::TakenList<Resumable, &Resumable::next_resumable> taken_resumables;
  std::atomic<uint64_t> kicks{0};  // relaxed: a statistic, orders nothing

  // Home thread only.
  std::array<epoll_event, kEventsPerTurn> events{};
  unsigned depth = 0;           // nested dispatches
  bool only_outermost = false;  // main's service context: polled by the main loop alone
  std::vector<std::unique_ptr<FdWatch::State>> graveyard;  // watches that died during a dispatch
  Nanoseconds busy_poll_limit{0};
  Nanoseconds busy_poll{0};
};

}  // namespace rhea
