// BlockContext: what the block layer keeps for each event loop that runs its requests.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "util/aio_context.h"
#include "util/coroutine.h"
#include "util/error.h"

namespace rhea::block {

class BlockBackend;
class TrackedRequest;

namespace internal {

/// How many coroutines that took the graph lock here have not let it go here. Signed: a coroutine
/// may take it in one context and let it go in another, so only the sum over all contexts means
/// anything, and that only once the writer's flag is visible (R7).
struct alignas(64) ReaderCell {
  std::atomic<int64_t> readers{0};  // written by the context's home thread alone
};

class RingSlots;

}  // namespace internal

/// One event loop, as the block layer sees it.
///
/// Thread: made and destroyed on main; all else on the context's home thread, unless said.
/// Owns: nothing of the AioContext, which outlives it. Invariants: at most kMost at a time, each
/// with an index of its own; while it is destroyed no coroutine of the context is inside the block
/// layer (one that took the graph lock here may have moved away).
class BlockContext final : public AioExtension {
 public:
  static constexpr unsigned kMost = 64;

  /// Errors: kResource, there are kMost.
  static Result<std::unique_ptr<BlockContext>> create(AioContext& aio);
  ~BlockContext() override;

  /// The record of the context that runs this coroutine. Aborts if it has none: such a thread has
  /// no business in the block layer (G14).
  static BlockContext& of(Co& co);

  AioContext& aio() noexcept { return aio_; }
  /// Below kMost, for arrays of cells that each context writes its own of.
  unsigned index() const noexcept { return index_; }
  /// Of no other context, before or after.
  uint64_t serial() const noexcept { return serial_; }
  internal::ReaderCell& readers() noexcept { return readers_; }
  internal::RingSlots& ring_slots() noexcept { return *ring_slots_; }
  /// Any thread, for run_at_home().
  std::shared_ptr<internal::RingSlots> share_ring_slots() const { return ring_slots_; }
  /// Calls `callback` on the home thread: at once if this is it. Any thread.
  void run_at_home(std::move_only_function<void()> callback);

  /// Of all, or of one backend; null if there is none. Home thread.
  const TrackedRequest* oldest_request(const BlockBackend* of) const noexcept;

 private:
  friend class TrackedRequest;
  BlockContext(AioContext& aio, unsigned index);

  AioContext& aio_;
  const unsigned index_;
  const uint64_t serial_;
  const std::shared_ptr<internal::RingSlots> ring_slots_;  // shared with what is posted
  internal::ReaderCell readers_;
  TrackedRequest* first_ = nullptr;
  TrackedRequest* last_ = nullptr;
  uint64_t next_request_ = 1;
};

/// A count of which every context changes a cell of its own, so that requests on several of them
/// share no cache line.
///
/// Thread: add() and subtract() on the contexts' home threads, which need not be the same for one
/// request; sum() on main. Invariants: the sum is the number of requests only for a caller who
/// knows that none begins: before that it may be anything.
class ShardedCount {
 public:
  void add(BlockContext& context) noexcept { change(context, 1); }
  void subtract(BlockContext& context) noexcept { change(context, -1); }
  int64_t sum() const noexcept;

 private:
  struct alignas(64) Cell {
    std::atomic<int64_t> count{0};
  };
  void change(BlockContext& context, int64_t by) noexcept {
    std::atomic<int64_t>& count = cells_[context.index()].count;
    // One writer, so no atomic addition. release: pairs with the acquire in sum(): what the request
    // did is seen by whoever sees it gone.
    count.store(count.load(std::memory_order_relaxed) + by, std::memory_order_release);
  }
  Cell cells_[BlockContext::kMost];
};

}  // namespace rhea::block
