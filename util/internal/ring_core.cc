#include "util/internal/ring_core.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "util/check.h"
#include "util/internal/aio_impl.h"
#include "util/log.h"

namespace rhea::internal {
namespace {

/// How a completion reaches the ring, the best first. A younger kernel knows them all.
struct Mode {
  unsigned flags;
  std::string_view what;
};
constexpr std::array<Mode, 4> kModes{{
    // 6.1: completions are worked off when this thread asks for them, never in between.
    {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
         IORING_SETUP_SUBMIT_ALL,
     "deferred completions"},
    // 6.0 and 5.19: at its next system call, without an interrupt from another core.
    {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
         IORING_SETUP_SUBMIT_ALL,
     "cooperative completions, single issuer"},
    {IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
     "cooperative completions"},
    {0, "interrupting completions"},
}};

/// No completion is ever dropped, and a wait may have a time-out: 5.11.
constexpr unsigned kNeeded = IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG | IORING_FEAT_SUBMIT_STABLE;

/// When the kernel has no memory for requests: how long to leave it alone.
constexpr Nanoseconds kRetryAfter = std::chrono::milliseconds(1);

// What a completion is for, when it is not a request's address.
constexpr uint64_t kForNobody = 0;
constexpr uint64_t kForPoll = 1;

std::string sysctl_value() {
  std::string value;
  std::getline(std::ifstream("/proc/sys/kernel/io_uring_disabled"), value);
  return value;
}

/// What stands behind a refusal, for whoever has to change it.
Error refusal(int error) {
  if (error == EPERM) {
    const std::string value = sysctl_value();
    if (!value.empty() && value != "0") {
      return fail(ErrorKind::kPermission, "kernel.io_uring_disabled is {}", value);
    }
    return fail_errno(error, "a system call filter refuses io_uring");
  }
  if (error == ENOSYS) {
    return fail_errno(error, "the kernel has no io_uring, or a system call filter hides it");
  }
  if (error == ENOMEM) {
    return fail_errno(error, "no memory for an io_uring, or RLIMIT_MEMLOCK is too low");
  }
  return fail_errno(error, "io_uring_setup");
}

/// Whether the kernel could do the work of an io_uring_enter(2); aborts where only a bug of ours
/// explains its answer.
bool went_well(int result) {
  // Time-outs and signals end a wait, and what was to be submitted was submitted.
  if (result >= 0 || result == -ETIME || result == -EINTR) return true;
  RHEA_CHECK(result == -EAGAIN || result == -EBUSY || result == -ENOMEM, "io_uring_enter: errno {}",
             -result);
  return false;
}

}  // namespace

void RingRequestList::push(RingRequest& request) noexcept {
  request.next = nullptr;
  request.previous = last_;
  (last_ != nullptr ? last_->next : first_) = &request;
  last_ = &request;
  ++size_;
}

void RingRequestList::remove(RingRequest& request) noexcept {
  (request.previous != nullptr ? request.previous->next : first_) = request.next;
  (request.next != nullptr ? request.next->previous : last_) = request.previous;
  --size_;
}

// --- Life ---

Result<std::unique_ptr<RingCore>> RingCore::create(int epoll_fd, Completed& completed,
                                                   WaitBy wait_by) {
  std::unique_ptr<RingCore> core(new RingCore(epoll_fd, completed));
  TRY(core->open(wait_by));
  return core;
}

Result<void> RingCore::open(WaitBy wait_by) {
  TRY(set_up(wait_by));
  open_ = true;
  if ((ring_.features & kNeeded) != kNeeded) {
    return fail(ErrorKind::kUnsupported, "the kernel's io_uring is too old (features {:#x})",
                ring_.features);
  }
  // A filter that lets the set-up through may still refuse the rest.
  const int result = io_uring_get_events(&ring_);
  if (result < 0) return refusal(-result);
  return ok();
}

Result<void> RingCore::set_up(WaitBy wait_by) {
  int result = 0;
  // What is deferred until this thread asks the ring wakes nobody who polls its descriptor.
  const size_t first = wait_by == WaitBy::kDescriptor ? 1 : 0;
  for (const Mode& mode : std::span(kModes).subspan(first)) {
    io_uring_params params{};
    params.flags = mode.flags | IORING_SETUP_CQSIZE;
    params.cq_entries = kCompletions;
    result = io_uring_queue_init_params(kEntries, &ring_, &params);
    if (result == 0) {
      RHEA_LOG(kUtil, kDebug, "io_uring: {}, features {:#x}", mode.what, params.features);
      return ok();
    }
    if (result != -EINVAL) break;  // anything else is not about the flags
  }
  return refusal(-result);
}

RingCore::~RingCore() {
  // The kernel takes a ring apart in its own time (tens of milliseconds), and a file in its table
  // with it: an image's lock would outlive the image's owner.
  RHEA_CHECK(in_flight() == 0, "an io_uring goes with {} requests in flight", in_flight());
  RHEA_CHECK(slots_.none(), "an io_uring goes with {} files registered", slots_.count());
  if (open_) io_uring_queue_exit(&ring_);
}

// --- Submission ---

/// An entry to fill in; submits what is queued if there is no room. Null if the kernel has none.
io_uring_sqe* RingCore::free_entry() {
  if (io_uring_sqe* entry = io_uring_get_sqe(&ring_)) return entry;
  ++counters_.enters;
  went_well(io_uring_submit(&ring_));  // if not, there is no room below
  return io_uring_get_sqe(&ring_);
}

/// As free_entry(); null also when so many requests are with the kernel that one has to end first.
io_uring_sqe* RingCore::free_entry_for_request() {
  return given_.size() < kMostGiven ? free_entry() : nullptr;
}

void RingCore::give(RingRequest& request, io_uring_sqe& entry) {
  const RingOperation& operation = request.operation;
  io_uring_prep_rw(operation.opcode, &entry, operation.fd, nullptr, operation.length,
                   operation.offset);
  entry.addr = operation.address;
  entry.rw_flags = static_cast<int>(operation.operation_flags);  // a union of all flags
  entry.flags = operation.entry_flags;
  entry.buf_index = operation.memory.slot;
  entry.user_data = reinterpret_cast<uint64_t>(&request);
  given_.push(request);
  ++counters_.requests;
  if (operation.memory.range != nullptr) ++counters_.registered;
}

void RingCore::queue(RingRequest& request) {
  // Behind those that wait already.
  if (waiting_.empty()) {
    if (io_uring_sqe* entry = free_entry_for_request()) return give(request, *entry);
  }
  ++counters_.queued;
  waiting_.push(request);
}

/// Fills the submission queue with what waits for room.
void RingCore::pump() {
  while (RingRequest* request = waiting_.first()) {
    io_uring_sqe* entry = free_entry_for_request();
    if (entry == nullptr) break;
    waiting_.remove(*request);
    give(*request, *entry);
  }
  if (cancels_wanted_ > 0) ask_to_cancel();
}

void RingCore::ask_to_cancel() {
  for (RingRequest* request = given_.first(); request != nullptr; request = request->next) {
    if (request->cancel != RingRequest::Cancel::kWanted) continue;
    io_uring_sqe* entry = free_entry();
    if (entry == nullptr) return;
    // The kernel takes entries in order, so this one can not meet a later request that has come to
    // lie at the same address.
    io_uring_prep_cancel64(entry, reinterpret_cast<uint64_t>(request), 0);
    entry->user_data = kForNobody;
    request->cancel = RingRequest::Cancel::kAsked;
    --cancels_wanted_;
  }
}

void RingCore::cancel(int fd, uint8_t flags) {
  const auto is_meant = [fd, flags](const RingRequest& request) {
    const RingOperation& operation = request.operation;
    return fd == -1 || (operation.fd == fd && operation.entry_flags == flags);
  };
  for (RingRequest* request = waiting_.first(); request != nullptr;) {
    RingRequest* next = request->next;
    if (is_meant(*request)) {
      waiting_.remove(*request);
      finish(*request, -ECANCELED);
    }
    request = next;
  }
  for (RingRequest* request = given_.first(); request != nullptr; request = request->next) {
    if (!is_meant(*request) || request->cancel != RingRequest::Cancel::kNo) continue;
    request->cancel = RingRequest::Cancel::kWanted;
    ++cancels_wanted_;
  }
}

// --- Waiting ---

bool RingCore::arm_poll() {
  if (poll_armed_) return true;
  io_uring_sqe* entry = free_entry();
  if (entry == nullptr) return false;
  io_uring_prep_poll_add(entry, epoll_fd_, POLLIN);
  entry->user_data = kForPoll;
  poll_armed_ = true;
  return true;
}

bool RingCore::enter_and_wait(Nanoseconds limit) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(limit);
  __kernel_timespec timeout{.tv_sec = seconds.count(), .tv_nsec = (limit - seconds).count()};
  io_uring_cqe* first = nullptr;
  if (io_uring_sq_ready(&ring_) > 0 || io_uring_cq_ready(&ring_) == 0) ++counters_.enters;
  return went_well(io_uring_submit_and_wait_timeout(
      &ring_, &first, 1, limit == Nanoseconds::max() ? nullptr : &timeout, nullptr));
}

/// Stands in for the sleep in the ring when the kernel does not take requests for now.
void RingCore::sit_out(Nanoseconds limit) {
  std::array<pollfd, 2> fds{pollfd{.fd = epoll_fd_, .events = POLLIN, .revents = 0},
                            pollfd{.fd = fd(), .events = POLLIN, .revents = 0}};
  wait_for_any(fds, std::min(limit, kRetryAfter));
  epoll_ready_ = true;  // for all that is known
}

bool RingCore::wait(Nanoseconds limit) {
  epoll_ready_ = false;  // what a look has found before is old: the poll looks anew
  pump();
  if (!arm_poll() || !enter_and_wait(limit)) sit_out(limit);
  reap();
  return epoll_ready_;
}

Nanoseconds RingCore::longest_sleep() const noexcept {
  // What waits for another request to end is woken by that.
  const bool full = given_.size() >= kMostGiven;
  const bool refused =
      io_uring_sq_ready(&ring_) > 0 || (!waiting_.empty() && !full) || cancels_wanted_ > 0;
  return refused ? kRetryAfter : Nanoseconds::max();
}

void RingCore::look() {
  pump();
  // relaxed: a flag that is seen too late is seen by the next look, or by the kernel in wait()
  const unsigned flags = __atomic_load_n(ring_.sq.kflags, __ATOMIC_RELAXED);
  if (io_uring_sq_ready(&ring_) > 0) {
    ++counters_.enters;
    went_well(io_uring_submit_and_get_events(&ring_));  // if not, the next look tries again
  } else if ((flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0) {
    ++counters_.enters;
    went_well(io_uring_get_events(&ring_));
  }
  reap();
}

/// One pass. The kernel may hold more than it posted at once (20 with deferred completions): it
/// hands them out with the next call, which also submits what the first ones lead to.
void RingCore::reap() {
  unsigned head = 0;
  unsigned seen = 0;
  io_uring_cqe* entry = nullptr;
  io_uring_for_each_cqe(&ring_, head, entry) {
    ++seen;
    if (entry->user_data == kForNobody) continue;
    if (entry->user_data == kForPoll) {
      poll_armed_ = false;
      epoll_ready_ = true;
      continue;
    }
    auto* request = reinterpret_cast<RingRequest*>(entry->user_data);
    given_.remove(*request);
    if (request->cancel == RingRequest::Cancel::kWanted) --cancels_wanted_;
    finish(*request, entry->res);
  }
  io_uring_cq_advance(&ring_, seen);
}

void RingCore::finish(RingRequest& request, int32_t result) {
  request.result = result;
  if (RingMemory::Range* range = request.operation.memory.range) memory_.leave(*range);
  // relaxed: the list is this thread's own
  request.waiter.next_resumable.store(nullptr, std::memory_order_relaxed);
  completed_.append(&request.waiter);
}

// --- Files ---

Result<int> RingCore::add_file(int fd) {
  if (!std::exchange(tried_file_table_, true)) {
    std::array<int, kFileSlots> none{};
    none.fill(-1);
    has_file_table_ = io_uring_register_files(&ring_, none.data(), none.size()) == 0;
  }
  if (!has_file_table_ || slots_.all()) return kNoSlot;
  int slot = 0;
  while (slots_.test(static_cast<size_t>(slot))) ++slot;
  const int result = io_uring_register_files_update(&ring_, static_cast<unsigned>(slot), &fd, 1);
  if (result < 0) return fail_errno(-result, "cannot register descriptor {}", fd);
  slots_.set(static_cast<size_t>(slot));
  return slot;
}

void RingCore::remove_file(int slot) {
  RHEA_CHECK(slot >= 0 && slots_.test(static_cast<size_t>(slot)), "file slot {} is empty", slot);
  int none = -1;
  const int result = io_uring_register_files_update(&ring_, static_cast<unsigned>(slot), &none, 1);
  RHEA_CHECK(result == 1, "cannot empty file slot {}: errno {}", slot, -result);
  slots_.reset(static_cast<size_t>(slot));
}

}  // namespace rhea::internal
