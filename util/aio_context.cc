#include "util/aio_context.h"

#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "util/check.h"
#include "util/internal/aio_impl.h"
#include "util/internal/thread_state.h"
#include "util/lock_rank.h"
#include "util/rcu.h"
#include "util/sync_point.h"
#include "util/thread.h"

namespace rhea {
namespace {

uint32_t to_epoll(FdEvents events) {
  return (has(events, FdEvents::kRead) ? uint32_t{EPOLLIN | EPOLLRDHUP} : 0U) |
         (has(events, FdEvents::kWrite) ? uint32_t{EPOLLOUT} : 0U);
}

FdEvents from_epoll(uint32_t ready) {
  // A hang-up or an error is for whoever reads or writes next to find out.
  const bool broken = (ready & (EPOLLERR | EPOLLHUP)) != 0;
  const bool read = broken || (ready & (EPOLLIN | EPOLLRDHUP)) != 0;
  const bool write = broken || (ready & EPOLLOUT) != 0;
  return static_cast<FdEvents>((read ? 1 : 0) | (write ? 2 : 0));
}

int this_thread() noexcept {
  thread_local const int id = current_thread_id();
  return id;
}

}  // namespace

// --- Bh ---

Bh::Bh(AioContext& context, std::move_only_function<void()> callback) : node_(new Node) {
  node_->context = context.impl_.get();
  node_->callback = std::move(callback);
}

Bh::~Bh() {
  cancel();
  // The list, or the frame that runs the callback, still holds it.
  if (node_->running || (node_->state.load(std::memory_order_acquire) & Node::kListed) != 0) {
    node_->orphaned = true;
  } else {
    delete node_;
  }
}

void Bh::schedule() { node_->context->schedule(*node_); }

void Bh::cancel() {
  // relaxed: takes back what this thread would otherwise do itself
  node_->state.fetch_and(static_cast<uint8_t>(~Node::kScheduled), std::memory_order_relaxed);
}

// --- FdWatch ---

FdWatch::FdWatch() = default;
FdWatch::FdWatch(std::unique_ptr<State> state) : state_(std::move(state)) {}
FdWatch::FdWatch(FdWatch&&) noexcept = default;

FdWatch& FdWatch::operator=(FdWatch&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}

FdWatch::~FdWatch() {
  if (state_ == nullptr) return;
  state_->context->assert_home("a watch ends");
  state_->context->control(EPOLL_CTL_DEL, *state_);
  state_->dead = true;
  state_->context->bury(std::move(state_));
}

void FdWatch::set_events(FdEvents events) {
  if (state_->events == events) return;
  state_->context->assert_home("a watch changes");
  state_->events = events;
  state_->context->control(EPOLL_CTL_MOD, *state_);
}

// --- AioContext::Impl ---

Result<void> AioContext::Impl::open() {
  epoll = Fd(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return fail_errno(errno, "epoll_create1");
  wake = TRY(make_eventfd());
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.ptr = nullptr;  // the one entry that is no watch
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.get(), &event) < 0) {
    return fail_errno(errno, "epoll_ctl");
  }
  home = this_thread();
  return ok();
}

AioContext::Impl::~Impl() {
  taken_bottom_halves.append(bottom_halves.take_all());
  while (Bh::Node* node = taken_bottom_halves.pop()) {
    node->state.store(0, std::memory_order_release);  // pairs with the load in ~Bh()
    if (node->orphaned) delete node;
  }
  RHEA_CHECK(resumables.empty() && taken_resumables.empty(),
             "context {} goes with a coroutine to resume", name);
}

void AioContext::Impl::schedule(Bh::Node& node) {
  // acq_rel: pairs with run(). If the node is listed still, that run is to come and will see what
  // this caller published; if not, it is this caller's to list.
  const uint8_t before =
      node.state.fetch_or(Bh::Node::kListed | Bh::Node::kScheduled, std::memory_order_acq_rel);
  if ((before & Bh::Node::kListed) != 0) return;
  RHEA_SYNC_POINT("aio.schedule.before_push");
  bottom_halves.push(node);
  notify();
}

void AioContext::Impl::notify() {
  gate.notify([this] {
    kicks.fetch_add(1, std::memory_order_relaxed);
    signal_eventfd(wake.get());
  });
}

void AioContext::Impl::assert_home(const char* what) const {
  RHEA_CHECK(home.load(std::memory_order_relaxed) == this_thread(), "{} on a foreign thread", what);
}

bool AioContext::Impl::has_pending() const noexcept {
  return !bottom_halves.empty() || !resumables.empty() || !taken_bottom_halves.empty() ||
         !taken_resumables.empty();
}

Nanoseconds AioContext::Impl::sleep_limit() const {
  return has_pending() ? Nanoseconds::zero() : timers.host_time_until_next();
}

size_t AioContext::Impl::wait(Nanoseconds limit) {
  timespec timeout{};
  const bool for_ever = limit == Nanoseconds::max();
  if (!for_ever) {
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(limit);
    timeout.tv_sec = seconds.count();
    timeout.tv_nsec = (limit - seconds).count();
  }
  const int n = ::epoll_pwait2(epoll.get(), events.data(), static_cast<int>(events.size()),
                               for_ever ? nullptr : &timeout, nullptr);
  RHEA_CHECK(n >= 0 || errno == EINTR, "epoll_pwait2: errno {}", errno);
  return static_cast<size_t>(std::max(n, 0));
}

bool AioContext::Impl::dispatch(size_t ready) {
  ++depth;
  bool progress = false;
  for (size_t i = 0; i < ready; ++i) {
    if (events[i].data.ptr == nullptr)
      clear_eventfd(wake.get());  // I9: before anything is consumed
  }
  // Descriptors first: `events` belongs to this frame only until a callback polls nested.
  progress |= run_watches(ready);
  progress |= run_bottom_halves();
  progress |= run_resumables();
  progress |= timers.run_expired();
  if (--depth == 0) graveyard.clear();
  return progress;
}

bool AioContext::Impl::run_watches(size_t ready) {
  if (ready == 0) return false;
  const std::array<epoll_event, kEventsPerTurn> now = events;
  bool progress = false;
  for (size_t i = 0; i < ready; ++i) {
    auto* state = static_cast<FdWatch::State*>(now[i].data.ptr);
    if (state == nullptr || state->dead) continue;
    const auto wanted = static_cast<FdEvents>(static_cast<uint8_t>(from_epoll(now[i].events)) &
                                              static_cast<uint8_t>(state->events));
    if (wanted == FdEvents::kNone) continue;
    progress = true;
    state->callback(wanted);
  }
  return progress;
}

void AioContext::Impl::run(Bh::Node& node) {
  // acq_rel: pairs with schedule(). Cleared before the callback looks at what was published: a
  // schedule that comes later lists the node anew.
  const uint8_t before = node.state.exchange(0, std::memory_order_acq_rel);
  if ((before & Bh::Node::kScheduled) != 0) {
    const bool outer = std::exchange(node.running, true);
    node.callback();
    node.running = outer;
  }
  const bool listed = (node.state.load(std::memory_order_acquire) & Bh::Node::kListed) != 0;
  if (node.orphaned && !node.running && !listed) delete &node;
}

bool AioContext::Impl::run_bottom_halves() {
  taken_bottom_halves.append(bottom_halves.take_all());
  bool progress = false;
  while (Bh::Node* node = taken_bottom_halves.pop()) {
    run(*node);
    progress = true;
  }
  return progress;
}

bool AioContext::Impl::run_resumables() {
  taken_resumables.append(resumables.take_all());
  bool progress = false;
  while (Resumable* resumable = taken_resumables.pop()) {
    resumable->resume();
    progress = true;
  }
  return progress;
}

void AioContext::Impl::control(int operation, FdWatch::State& state) const {
  epoll_event event{};
  event.events = to_epoll(state.events);
  event.data.ptr = &state;
  // The descriptor outlives its watch, so only a bug makes this fail.
  RHEA_CHECK(::epoll_ctl(epoll.get(), operation, state.fd, &event) == 0,
             "epoll_ctl on fd {}: errno {}", state.fd, errno);
}

void AioContext::Impl::bury(std::unique_ptr<FdWatch::State> state) {
  // A dispatch may hold it in its list of ready ones, or be inside its callback.
  if (depth > 0) graveyard.push_back(std::move(state));
}

/// Busy-polls for up to `busy_poll`; true if something turned up. The time doubles when something
/// came soon after a sleep began, and is halved when it was spent in vain.
bool AioContext::Impl::look_around() {
  if (busy_poll_limit == Nanoseconds::zero()) return false;
  constexpr Nanoseconds kFirst{4000};
  const Nanoseconds end = host_clock.now() + busy_poll;
  do {
    if (has_pending() || wait(Nanoseconds::zero()) > 0) {
      busy_poll = std::min(std::max(busy_poll * 2, kFirst), busy_poll_limit);
      return true;
    }
  } while (host_clock.now() < end);
  busy_poll = std::max(busy_poll / 2, std::min(kFirst, busy_poll_limit));
  return false;
}

// --- AioContext ---

AioContext::AioContext(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
AioContext::~AioContext() = default;

Result<std::unique_ptr<AioContext>> AioContext::create(std::string name) {
  auto impl = std::make_unique<Impl>(std::move(name));
  TRY(impl->open());
  return std::unique_ptr<AioContext>(new AioContext(std::move(impl)));
}

void AioContext::post(std::move_only_function<void()> callback) {
  auto* node = new Bh::Node;
  node->context = impl_.get();
  node->callback = std::move(callback);
  node->orphaned = true;
  impl_->schedule(*node);
}

void AioContext::resume_later(Resumable& resumable) {
  impl_->resumables.push(resumable);
  impl_->notify();
}

void AioContext::notify() { impl_->notify(); }

Result<FdWatch> AioContext::watch(int fd, FdEvents events,
                                  std::move_only_function<void(FdEvents)> callback) {
  impl_->assert_home("a watch starts");
  auto state = std::make_unique<FdWatch::State>();
  state->context = impl_.get();
  state->fd = fd;
  state->events = events;
  state->callback = std::move(callback);
  epoll_event event{};
  event.events = to_epoll(events);
  event.data.ptr = state.get();
  // EPERM: a regular file, which epoll does not take because it is always ready.
  if (::epoll_ctl(impl_->epoll.get(), EPOLL_CTL_ADD, fd, &event) < 0) {
    return fail_errno(errno, "cannot watch descriptor {}", fd);
  }
  return FdWatch(std::move(state));
}

TimerList& AioContext::timers() noexcept { return impl_->timers; }

bool AioContext::poll(PollMode mode) {
  impl_->assert_home("poll");
  RHEA_CHECK(!impl_->only_outermost, "the service context is polled by the main loop alone");
  const internal::ThreadState& thread = internal::thread_state();
  RHEA_CHECK(thread.rcu_depth == 0, "poll inside an RCU read section");
  RHEA_CHECK(held_locks_below_bql() == 0, "poll with a lock held");
  RHEA_CHECK(thread.current == nullptr, "poll inside a coroutine");
  if (mode == PollMode::kNonBlocking || impl_->look_around()) {
    return impl_->dispatch(impl_->wait(Nanoseconds::zero()));
  }
  impl_->gate.prepare_to_sleep();
  RHEA_SYNC_POINT("aio.poll.announced");
  const size_t ready = impl_->wait(impl_->sleep_limit());
  impl_->gate.done_sleeping();
  return impl_->dispatch(ready);
}

void AioContext::set_busy_poll(Nanoseconds longest) {
  impl_->assert_home("busy-poll changes");
  impl_->busy_poll_limit = impl_->busy_poll = longest;
}

uint64_t AioContext::kicks() const noexcept { return impl_->kicks.load(std::memory_order_relaxed); }
bool AioContext::is_home() const noexcept {
  return impl_->home.load(std::memory_order_relaxed) == this_thread();
}
void AioContext::rebind_home() noexcept { impl_->home = this_thread(); }
const std::string& AioContext::name() const noexcept { return impl_->name; }

}  // namespace rhea
