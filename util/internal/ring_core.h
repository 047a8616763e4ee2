// RingCore: one io_uring instance of one event loop, without what its users do with it.
#pragma once

#include <liburing.h>

#include <bitset>
#include <cstdint>
#include <memory>

#include "util/clock.h"
#include "util/error.h"
#include "util/executor.h"
#include "util/internal/ring_memory.h"
#include "util/internal/work_list.h"

namespace rhea::internal {

/// What a submission entry says, in the layout that all of our operations share.
struct RingOperation {
  uint8_t opcode = 0;
  uint8_t entry_flags = 0;  ///< IOSQE_...
  int32_t fd = -1;          ///< or the slot
  uint64_t address = 0;
  uint32_t length = 0;
  uint32_t operation_flags = 0;
  uint64_t offset = 0;
  RingMemory::Place memory{};  ///< which the address lies in
};

/// A request from its making to its completion; lives on the stack of the coroutine that waits.
struct RingRequest {
  /// Whether the kernel is to be, or was, asked to cancel it.
  enum class Cancel : uint8_t { kNo, kWanted, kAsked };

  RingRequest(const RingOperation& o, Resumable& w) : operation(o), waiter(w) {}

  const RingOperation operation;
  Resumable& waiter;
  int32_t result = 0;
  Cancel cancel = Cancel::kNo;
  RingRequest* next = nullptr;  // in the one list that it is in
  RingRequest* previous = nullptr;
};

/// First in, first out, and out of the middle.
class RingRequestList {
 public:
  bool empty() const noexcept { return first_ == nullptr; }
  size_t size() const noexcept { return size_; }
  RingRequest* first() const noexcept { return first_; }
  void push(RingRequest& request) noexcept;
  void remove(RingRequest& request) noexcept;

 private:
  RingRequest* first_ = nullptr;
  RingRequest* last_ = nullptr;
  size_t size_ = 0;
};

/// A ring and the requests that are in it or wait for room in it.
///
/// Queued requests are given to the kernel together: by wait(), look(), or when the submission
/// queue is full. While wait() sleeps, a one-shot poll of the loop's epoll instance lies in the
/// ring, so that one system call submits and waits for both. One-shot, not multishot: the epoll set
/// is level-triggered, and a poll that is made anew looks at what is ready still, while a multishot
/// one reports arrivals only, and would sleep on what a handler left unread.
///
/// Thread: the one that made it (the kernel checks), but destruction on any.
/// Invariants: goes without requests in flight and without registered files.
class RingCore {
 public:
  using Completed = TakenList<Resumable, &Resumable::next_resumable>;

  struct Counters {
    uint64_t enters = 0;      ///< io_uring_enter(2) calls
    uint64_t requests = 0;    ///< given to the kernel, polls and cancellations not counted
    uint64_t queued = 0;      ///< of those, the ones that had to wait for room
    uint64_t registered = 0;  ///< of those, transfers of registered memory
  };

  /// How its thread waits for completions: in the ring, or by poll(2) on the ring's descriptor,
  /// as the main loop does, which waits for more than one context.
  enum class WaitBy : uint8_t { kRing, kDescriptor };

  /// Waiters of what completes are put into `completed`.
  /// Errors: why the host refuses, in words.
  static Result<std::unique_ptr<RingCore>> create(int epoll_fd, Completed& completed,
                                                  WaitBy wait_by);
  ~RingCore();
  RingCore(const RingCore&) = delete;
  RingCore& operator=(const RingCore&) = delete;

  /// Takes a request, always. Its waiter is woken when `result` is there.
  void queue(RingRequest& request);

  /// Requests whose result is not there yet.
  size_t in_flight() const noexcept { return given_.size() + waiting_.size(); }
  /// Submits, then sleeps until something has completed, the epoll instance is ready, or `limit` is
  /// over. True if the epoll instance may be ready.
  bool wait(Nanoseconds limit);
  /// Submits, and collects what has completed; a system call only if there is something to do.
  void look();
  /// Becomes readable when something has completed. For who sleeps on it and not in wait(): after a
  /// look(), for longest_sleep() at most. That is short when the kernel did not take everything.
  int fd() const noexcept { return ring_.ring_fd; }
  Nanoseconds longest_sleep() const noexcept;

  /// Completes with -ECANCELED what has not reached the kernel, asks it to cancel the rest.
  /// `fd` and `flags` are those of the entries; fd -1: all.
  void cancel(int fd, uint8_t flags);

  /// A slot of the table of fixed files; kNoSlot when it is full or there is none.
  Result<int> add_file(int fd);
  void remove_file(int slot);
  static constexpr int kNoSlot = -1;

  /// For transfers; queue() takes what it gives, and its completion gives it back.
  RingMemory& memory() noexcept { return memory_; }

  const Counters& counters() const noexcept { return counters_; }

 private:
  RingCore(int epoll_fd, Completed& completed) : epoll_fd_(epoll_fd), completed_(completed) {}

  Result<void> open(WaitBy wait_by);
  Result<void> set_up(WaitBy wait_by);
  io_uring_sqe* free_entry();
  io_uring_sqe* free_entry_for_request();
  void give(RingRequest& request, io_uring_sqe& entry);
  void pump();
  void ask_to_cancel();
  bool arm_poll();
  bool enter_and_wait(Nanoseconds limit);
  void sit_out(Nanoseconds limit);
  void reap();
  void finish(RingRequest& request, int32_t result);

  static constexpr unsigned kEntries = 128;
  static constexpr unsigned kCompletions = 2048;
  /// Each of them and its cancellation completes, and the poll: there is always room for all. For
  /// one that did not fit the kernel would have to find memory, and could lose it.
  static constexpr size_t kMostGiven = 1000;
  static_assert(2 * kMostGiven + 1 <= kCompletions);
  static constexpr unsigned kFileSlots = 64;

  const int epoll_fd_;
  Completed& completed_;
  io_uring ring_{};
  bool open_ = false;
  bool poll_armed_ = false;
  bool epoll_ready_ = false;
  RingRequestList waiting_;    // for room
  RingRequestList given_;      // in the submission queue or the kernel
  size_t cancels_wanted_ = 0;  // among `given_`
  bool has_file_table_ = false;
  bool tried_file_table_ = false;
  std::bitset<kFileSlots> slots_;
  RingMemory memory_{ring_};
  Counters counters_;
};

}  // namespace rhea::internal
