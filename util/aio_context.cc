#include "util/aio_context.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "util/bql.h"
#include "util/check.h"
#include "util/internal/aio_impl.h"
#include "util/lock_rank.h"
#include "util/log.h"
#include "util/sync_point.h"

namespace rhea {
namespace {

uint32_t to_epoll(FdEvents events) {
  // A hang-up is always reported, and level-triggered it would keep a loop that waits for nothing
  // from sleeping. Edge-triggered it comes once.
  if (events == FdEvents::kNone) return EPOLLET;
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

FdEvents both(FdEvents a, FdEvents b) {
  return static_cast<FdEvents>(static_cast<uint8_t>(a) & static_cast<uint8_t>(b));
}

}  // namespace

namespace internal {

size_t wait_for_any(std::span<pollfd> fds, Nanoseconds limit) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(limit);
  const timespec timeout{.tv_sec = seconds.count(), .tv_nsec = (limit - seconds).count()};
  const int n =
      ::ppoll(fds.data(), fds.size(), limit == Nanoseconds::max() ? nullptr : &timeout, nullptr);
  RHEA_CHECK(n >= 0 || errno == EINTR, "ppoll: errno {}", errno);
  return static_cast<size_t>(std::max(n, 0));
}

void assert_poll_is_legal() {
  const ThreadState& thread = thread_state();
  RHEA_CHECK(thread.rcu_depth == 0, "poll inside an RCU read section");
  RHEA_CHECK(held_locks_below_bql() == 0, "poll with a lock held");
  RHEA_CHECK(thread.current == nullptr, "poll inside a coroutine");
}

}  // namespace internal

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
FdWatch::~FdWatch() { end(); }

FdWatch& FdWatch::operator=(FdWatch&& other) noexcept {
  if (this != &other) {
    end();
    state_ = std::move(other.state_);
  }
  return *this;
}

void FdWatch::end() {
  if (state_ == nullptr) return;
  AioContext::Impl& context = *state_->context;
  context.assert_home("a watch ends");
  context.control(EPOLL_CTL_DEL, *state_);
  std::erase(context.ready_checks, state_.get());
  context.forget(std::move(state_));
}

void FdWatch::set_events(FdEvents events) {
  if (state_->events == events) return;
  state_->context->assert_home("a watch changes");
  state_->events = events;
  state_->context->control(EPOLL_CTL_MOD, *state_);
}

void FdWatch::set_ready_check(std::move_only_function<bool()> ready, BusyPollSpan span) {
  AioContext::Impl& context = *state_->context;
  context.assert_home("a watch changes");
  std::erase(context.ready_checks, state_.get());
  state_->ready = std::move(ready);
  state_->span = std::move(span);
  if (state_->ready) context.ready_checks.push_back(state_.get());
}

// --- AioContext::Impl: its parts ---

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
  home = &internal::thread_state();
  return ok();
}

AioContext::Impl::~Impl() {
  destroy_bottom_halves();  // what they carry may use the ring
  close_ring();
  destroy_bottom_halves();  // the ring's own
  RHEA_CHECK(watches == 0, "context {} goes with {} watches on it", name, watches);
  RHEA_CHECK(resumables.empty() && taken_resumables.empty(),
             "context {} goes with a coroutine to resume", name);
}

void AioContext::Impl::destroy_bottom_halves() noexcept {
  // What a post carries may post again when it is destroyed.
  while (!bottom_halves.empty() || !taken_bottom_halves.empty()) {
    taken_bottom_halves.append(bottom_halves.take_all());
    while (Bh::Node* node = taken_bottom_halves.pop()) {
      node->state.store(0, std::memory_order_release);  // pairs with the load in ~Bh()
      if (node->orphaned) delete node;
    }
  }
}

void AioContext::Impl::open_ring(AioContext& context) {
  auto made =
      internal::RingCore::create(epoll.get(), taken_resumables,
                                 role == Role::kMainBlock ? internal::RingCore::WaitBy::kDescriptor
                                                          : internal::RingCore::WaitBy::kRing);
  if (!made.has_value()) {
    ring_refusal = made.error().message();
    RHEA_LOG(kUtil, kInfo, "context {} does its file I/O on threads: {}", name, ring_refusal);
    return;
  }
  core = made->get();
  ring.reset(new IoRing(std::move(*made), context));
}

void AioContext::Impl::close_ring() noexcept {
  if (ring != nullptr) {
    const IoRing::Counters c = ring->counters();
    RHEA_LOG(kUtil, kDebug,
             "io_uring of context {}: {} requests, {} of registered memory, {} calls", name,
             c.requests, c.registered, c.enters);
  }
  core = nullptr;
  ring.reset();
  ring_refusal.clear();
}

void AioContext::Impl::assert_home(const char* what) const {
  // relaxed: only the home thread itself finds its own address here
  RHEA_CHECK(home.load(std::memory_order_relaxed) == &internal::thread_state(),
             "{} on a thread that is not the home of context {}", what, name);
}

void AioContext::Impl::assert_may_poll() const {
  assert_home("poll");
  RHEA_CHECK(role != Role::kMainService, "the service context is polled by the main loop alone");
  if (role == Role::kMainBlock) bql.assert_held();
  internal::assert_poll_is_legal();
}

void AioContext::Impl::control(int operation, FdWatch::State& state) const {
  epoll_event event{};
  event.events = to_epoll(state.events);
  event.data.ptr = &state;
  // The descriptor outlives its watch, so only a bug makes this fail.
  RHEA_CHECK(::epoll_ctl(epoll.get(), operation, state.fd, &event) == 0,
             "epoll_ctl on fd {}: errno {}", state.fd, errno);
}

void AioContext::Impl::forget(std::unique_ptr<FdWatch::State> state) {
  --watches;
  state->dead = true;
  // A dispatch may hold it in its list of ready ones, or be inside its callback.
  if (depth > 0) graveyard.push_back(std::move(state));
}

// --- AioContext::Impl: publishing work ---

void AioContext::Impl::schedule(Bh::Node& node) {
  // acq_rel: pairs with run(). If the node is listed still, that run is to come and will see what
  // this caller published; if not, it is this caller's to list.
  const uint8_t before =
      node.state.fetch_or(Bh::Node::kListed | Bh::Node::kScheduled, std::memory_order_acq_rel);
  if ((before & Bh::Node::kListed) != 0) return;
  RHEA_SYNC_POINT("AioContext::schedule: marked, not yet in the list");
  bottom_halves.push(node);
  RHEA_SYNC_POINT("AioContext::schedule: in the list, nobody woken yet");
  wake_sleeper();
}

void AioContext::Impl::wake_sleeper() {
  gate.notify([this] {
    kicks.fetch_add(1, std::memory_order_relaxed);
    signal_eventfd(wake.get());
  });
}

bool AioContext::Impl::has_pending() const noexcept {
  // relaxed: a look before a sleep is ordered by the gate's fence, any other may be late
  return !bottom_halves.empty() || !resumables.empty() || !taken_bottom_halves.empty() ||
         !taken_resumables.empty() || nudged.load(std::memory_order_relaxed);
}

// --- AioContext::Impl: waiting ---

Nanoseconds AioContext::Impl::sleep_limit() const {
  return has_pending() ? Nanoseconds::zero() : timers.host_time_until_next();
}

size_t AioContext::Impl::wait(Nanoseconds limit) {
  if (!ring_is_busy()) return wait_in_epoll(limit);
  if (limit == Nanoseconds::zero()) {
    look_at_ring();
  } else if (!core->wait(limit)) {
    return 0;
  }
  return wait_in_epoll(Nanoseconds::zero());
}

size_t AioContext::Impl::wait_in_epoll(Nanoseconds limit) {
  int timeout_ms = limit == Nanoseconds::max() ? -1 : 0;
  if (timeout_ms == 0 && limit != Nanoseconds::zero()) {
    // epoll_wait knows milliseconds only; epoll_pwait2 is younger than some hosts' system call
    // filters. Only loops with an armed timer pay for the second call.
    pollfd self{.fd = epoll.get(), .events = POLLIN, .revents = 0};
    if (internal::wait_for_any({&self, 1}, limit) == 0) return 0;
  }
  const int n =
      ::epoll_wait(epoll.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
  RHEA_CHECK(n >= 0 || errno == EINTR, "epoll_wait: errno {}", errno);
  return static_cast<size_t>(std::max(n, 0));
}

size_t AioContext::Impl::sleep() {
  gate.prepare_to_sleep();
  RHEA_SYNC_POINT("AioContext::poll: announced, not yet looked");
  const Nanoseconds limit = sleep_limit();
  RHEA_SYNC_POINT("AioContext::poll: looked, not yet asleep");
  const size_t ready = wait(limit);
  gate.done_sleeping();
  return ready;
}

size_t AioContext::Impl::wait_for_work() {
  if (!busy_poll.enabled()) return sleep();
  const Nanoseconds start = host_clock.now();
  const Nanoseconds end = std::min(start + busy_poll.span(), timers.next_deadline());
  const std::optional<size_t> found = look_around(end);
  const size_t ready = found.has_value() ? *found : sleep();
  busy_poll.work_came_after(host_clock.now() - start);
  return ready;
}

/// Looks for work until `end` without sleeping; nothing if none came.
std::optional<size_t> AioContext::Impl::look_around(Nanoseconds end) {
  begin_busy_poll();
  std::optional<size_t> found;
  do {
    // The descriptors are asked every time: work that always is there must not starve them.
    const size_t ready = add_ready_watches(wait(Nanoseconds::zero()));
    if (ready > 0 || has_pending()) found = ready;
  } while (!found.has_value() && host_clock.now() < end);
  RHEA_SYNC_POINT("AioContext::poll: has looked around");
  end_busy_poll(found.value_or(0));
  return found;
}

bool AioContext::Impl::is_among_events(const FdWatch::State* state, size_t ready) const {
  return std::any_of(events.begin(), events.begin() + static_cast<ptrdiff_t>(ready),
                     [state](const epoll_event& e) { return e.data.ptr == state; });
}

void AioContext::Impl::begin_busy_poll() {
  for (FdWatch::State* state : ready_checks) {
    if (state->reads() && state->span.begins) state->span.begins();
  }
}

/// Nobody changes a watch in between, so those that hear of the end are those that began.
void AioContext::Impl::end_busy_poll(size_t ready) {
  for (FdWatch::State* state : ready_checks) {
    if (!state->reads() || !state->span.ends || is_among_events(state, ready)) continue;
    state->span.ends();
  }
}

/// Adds to `events` the watches whose ready check says yes.
size_t AioContext::Impl::add_ready_watches(size_t ready) {
  for (FdWatch::State* state : ready_checks) {
    if (ready == events.size()) break;  // they are asked again the next time
    // Else what a watch that is off has to do would keep its thread awake.
    if (!state->reads() || is_among_events(state, ready) || !state->ready()) continue;
    events[ready].events = EPOLLIN;
    events[ready].data.ptr = state;
    ++ready;
  }
  return ready;
}

// --- AioContext::Impl: running ---

bool AioContext::Impl::dispatch(size_t ready) {
  ++depth;
  // I9: the eventfd is cleared before anything is consumed.
  for (size_t i = 0; i < ready; ++i) {
    if (events[i].data.ptr == nullptr) clear_eventfd(wake.get());
  }
  // acq_rel: pairs with notify(), whose caller has published something for ours to see. A nudge
  // that this look misses stays for the next poll.
  if (nudged.load(std::memory_order_relaxed)) nudged.exchange(false, std::memory_order_acq_rel);
  // Descriptors first: `events` belongs to this frame only until a callback polls nested.
  bool progress = run_watches(ready);
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
    const FdEvents wanted = both(from_epoll(now[i].events), state->events);
    if (wanted == FdEvents::kNone) continue;
    progress = true;
    state->callback(wanted);
  }
  return progress;
}

bool AioContext::Impl::run_bottom_halves() {
  taken_bottom_halves.append(bottom_halves.take_all());
  bool progress = false;
  while (Bh::Node* node = taken_bottom_halves.pop()) progress |= run(*node);
  return progress;
}

/// Runs a node that was taken off the list. False if it had been cancelled.
bool AioContext::Impl::run(Bh::Node& node) {
  // acq_rel: pairs with schedule(). Cleared before the callback looks at what was published: a
  // schedule that comes later lists the node anew.
  const uint8_t before = node.state.exchange(0, std::memory_order_acq_rel);
  const bool wanted = (before & Bh::Node::kScheduled) != 0;
  if (wanted) {
    const bool outer = std::exchange(node.running, true);
    node.callback();
    node.running = outer;
  }
  const bool listed = (node.state.load(std::memory_order_acquire) & Bh::Node::kListed) != 0;
  if (node.orphaned && !node.running && !listed) delete &node;
  return wanted;
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
  impl_->wake_sleeper();
}

void AioContext::notify() {
  // release: pairs with the exchange in dispatch()
  impl_->nudged.store(true, std::memory_order_release);
  impl_->wake_sleeper();
}

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
  ++impl_->watches;
  return FdWatch(std::move(state));
}

TimerList& AioContext::timers() noexcept { return impl_->timers; }

bool AioContext::poll(PollMode mode) {
  impl_->assert_may_poll();
  const bool may_sleep = mode == PollMode::kBlocking;
  return impl_->dispatch(may_sleep ? impl_->wait_for_work() : impl_->wait(Nanoseconds::zero()));
}

void AioContext::set_busy_poll(const BusyPollParams& params) {
  impl_->assert_home("busy-polling changes");
  RHEA_CHECK(params.longest >= Nanoseconds::zero() && params.grow >= 1);
  impl_->busy_poll.configure(params);
}

uint64_t AioContext::kicks() const noexcept { return impl_->kicks.load(std::memory_order_relaxed); }
bool AioContext::is_home() const noexcept {
  return impl_->home.load(std::memory_order_relaxed) == &internal::thread_state();
}
void AioContext::rebind_home() noexcept {
  impl_->close_ring();
  impl_->home = &internal::thread_state();
}
const std::string& AioContext::name() const noexcept { return impl_->name; }

IoRing* AioContext::io_ring() {
  impl_->assert_home("the io_uring is used");
  if (impl_->ring == nullptr && impl_->ring_refusal.empty()) impl_->open_ring(*this);
  return impl_->ring.get();
}

const std::string& AioContext::io_ring_refusal() const {
  impl_->assert_home("the io_uring's state is read");
  return impl_->ring_refusal;
}

}  // namespace rhea
