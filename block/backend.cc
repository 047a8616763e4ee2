#include "block/backend.h"

#include <algorithm>

#include "block/graph.h"
#include "util/check.h"
#include "util/log.h"

namespace rhea::block {
namespace {

Nanoseconds now() { return std::chrono::steady_clock::now().time_since_epoch(); }

constexpr std::array<std::string_view, kRequestKinds> kKindNames{"read",    "write", "zeroing",
                                                                 "discard", "flush", "query"};

}  // namespace

TrackedRequest::TrackedRequest(BlockContext& context, const Origin& origin, RequestKind kind,
                               uint64_t offset, uint64_t size)
    : context_(context),
      origin_(origin),
      kind_(kind),
      offset_(offset),
      size_(size),
      number_(context.next_request_++),
      started_(now()),
      previous_(context.last_) {
  (previous_ != nullptr ? previous_->next_ : context.first_) = this;
  context.last_ = this;
}

TrackedRequest::~TrackedRequest() {
  (previous_ != nullptr ? previous_->next_ : context_.first_) = next_;
  (next_ != nullptr ? next_->previous_ : context_.last_) = previous_;
}

const TrackedRequest* BlockContext::oldest_request(const BlockBackend* of) const noexcept {
  const TrackedRequest* request = first_;
  while (request != nullptr && of != nullptr && &request->backend() != of) {
    request = request->next();
  }
  return request;
}

std::string TrackedRequest::describe(Nanoseconds at) const {
  const double age = std::chrono::duration<double>(at - started_).count();
  const auto kind = kKindNames[static_cast<size_t>(kind_)];
  return fmt::format("request {} on node '{}', a {} of {} bytes at {}, is {:.1f} s old", number_,
                     origin_.node.name(), kind, size_, offset_, age);
}

/// One context's numbers. relaxed everywhere: statistics, they order nothing.
struct alignas(64) BlockBackend::StatsCell {
  struct Kind {
    std::atomic<uint64_t> operations{0}, bytes{0}, failed{0}, invalid{0};
    std::atomic<int64_t> time_ns{0};
  };
  std::array<Kind, kRequestKinds> kinds;

  /// One writer, so no atomic addition.
  template <class T, class V>
  static void add(std::atomic<T>& counter, V value) {
    counter.store(counter.load(std::memory_order_relaxed) + static_cast<T>(value),
                  std::memory_order_relaxed);
  }
};

BlockBackend::BlockBackend(Graph& graph, std::string name, Permissions permissions)
    : graph_(graph),
      name_(std::move(name)),
      permissions_(permissions),
      root_(*this, "root"),
      gate_(graph.loop().waiter()),
      stats_(std::make_unique<StatsCell[]>(BlockContext::kMost)) {
  graph_.backends_.push_back(this);
}

BlockBackend::~BlockBackend() { close(); }

void BlockBackend::close() noexcept {
  if (std::exchange(listed_, false)) std::erase(graph_.backends_, this);
}

/// Requests may be under way, or come (an empty drive's): they look at the edge.
Result<void> BlockBackend::lead_to(Gs& gs, Node* node) {
  GraphTransaction transaction(gs);
  transaction.set(root_, node, permissions_);
  TRY(transaction.prepare());
  TRY(graph_.change(gs, [&](GraphWrite& write) { transaction.commit(write); }));
  child_changed(gs, root_);
  return ok();
}

Result<void> BlockBackend::insert(Gs& gs, Node& node) {
  RHEA_CHECK(root_.node(gs) == nullptr, "a backend has a node already");
  return lead_to(gs, &node);
}

Result<void> BlockBackend::replace(Gs& gs, Node& node) { return lead_to(gs, &node); }

Result<void> BlockBackend::remove(Gs& gs) {
  return root_.node(gs) != nullptr ? lead_to(gs, nullptr) : ok();
}

void BlockBackend::remove_idle(Gs& gs) noexcept {
  if (root_.node(gs) == nullptr) return;
  RHEA_CHECK(idle(), "'{}' lets go of its node with requests under way", name_);
  GraphTransaction transaction(gs);
  transaction.set(root_, nullptr);
  if (const auto left = transaction.prepare(); !left) {
    // Giving rights back can not conflict; an image lock that could not be lowered stays as it is.
    RHEA_LOG(kBlock, kWarn, "taking the node out of '{}': {}", name_, left.error().message());
  }
  transaction.commit_unreachable();
  child_changed(gs, root_);
}

void BlockBackend::remove_with(GraphTransaction& transaction) { transaction.set(root_, nullptr); }

Result<void> BlockBackend::set_permissions(Gs& gs, Permissions permissions) {
  Node* node = root_.node(gs);
  if (node != nullptr) {
    GraphTransaction transaction(gs);
    transaction.set(root_, node, permissions);
    TRY(transaction.prepare());
    transaction.commit_unreachable();  // no edge moves: requests see no difference
  }
  permissions_ = permissions;
  return ok();
}

template <class F>
Result<void> BlockBackend::request(Co& co, RequestKind kind, uint64_t offset, uint64_t size,
                                   F&& body) {
  if (holds_back_) {
    gate_.enter(co);
  } else {
    gate_.pass(co);
  }
  Nanoseconds started{0};
  auto result = [&]() -> Result<void> {
    GraphReadGuard reading(co);
    Node* node = root_.node();
    if (node == nullptr) return fail(ErrorKind::kNotFound, "No medium in '{}'", name_);
    TrackedRequest tracked(BlockContext::of(co), {*this, *node}, kind, offset, size);
    started = tracked.started();
    return body(*node);
  }();
  RHEA_CHECK(result.has_value() || !result.error().message().empty());
  auto& numbers = stats_[BlockContext::of(co).index()].kinds[static_cast<size_t>(kind)];
  if (result.has_value()) {
    StatsCell::add(numbers.operations, 1);
    StatsCell::add(numbers.bytes, size);
    StatsCell::add(numbers.time_ns, (now() - started).count());
  } else {
    StatsCell::add(numbers.failed, 1);
  }
  gate_.leave(co);  // the last touch: main may have seen it, and this may be gone
  return result;
}

Result<void> BlockBackend::co_read(Co& co, uint64_t offset, IoVector memory) {
  return request(co, RequestKind::kRead, offset, memory.size, [&](Node& node) {
    graph_lock.assert_reading();
    return node.co_read(co, offset, memory);
  });
}

Result<void> BlockBackend::co_write(Co& co, uint64_t offset, IoVector memory, WriteFlags flags) {
  const WriteFlags all = write_cache() ? flags : flags | WriteFlags::kForceUnitAccess;
  return request(co, RequestKind::kWrite, offset, memory.size, [&](Node& node) {
    graph_lock.assert_reading();
    return node.co_write(co, offset, memory, all);
  });
}

Result<void> BlockBackend::co_write_zeroes(Co& co, uint64_t offset, uint64_t size,
                                           WriteFlags flags) {
  const WriteFlags all = write_cache() ? flags : flags | WriteFlags::kForceUnitAccess;
  return request(co, RequestKind::kZero, offset, size, [&](Node& node) {
    graph_lock.assert_reading();
    return node.co_write_zeroes(co, offset, size, all);
  });
}

Result<void> BlockBackend::co_discard(Co& co, uint64_t offset, uint64_t size) {
  return request(co, RequestKind::kDiscard, offset, size, [&](Node& node) {
    graph_lock.assert_reading();
    return node.co_discard(co, offset, size);
  });
}

Result<void> BlockBackend::co_flush(Co& co) {
  return request(co, RequestKind::kFlush, 0, 0, [&](Node& node) {
    graph_lock.assert_reading();
    return node.co_flush(co);
  });
}

Result<BlockStatus> BlockBackend::co_status(Co& co, uint64_t offset, uint64_t size) {
  BlockStatus status;
  TRY(request(co, RequestKind::kStatus, offset, size, [&](Node& node) -> Result<void> {
    graph_lock.assert_reading();
    status = TRY(node.co_status(co, offset, size));
    return ok();
  }));
  return status;
}

BackendStats BlockBackend::stats() const {
  BackendStats sum;
  for (unsigned i = 0; i < BlockContext::kMost; ++i) {
    for (unsigned k = 0; k < kRequestKinds; ++k) {
      const StatsCell::Kind& cell = stats_[i].kinds[k];
      BackendStats::Kind& kind = sum.kinds[k];
      kind.operations += cell.operations.load(std::memory_order_relaxed);
      kind.bytes += cell.bytes.load(std::memory_order_relaxed);
      kind.failed += cell.failed.load(std::memory_order_relaxed);
      kind.invalid += cell.invalid.load(std::memory_order_relaxed);
      kind.time += Nanoseconds(cell.time_ns.load(std::memory_order_relaxed));
    }
  }
  return sum;
}

void BlockBackend::count_invalid(Co& co, RequestKind kind) {
  StatsCell::add(stats_[BlockContext::of(co).index()].kinds[static_cast<size_t>(kind)].invalid, 1);
}

std::string BlockBackend::describe() const { return fmt::format("block device '{}'", name_); }

void BlockBackend::drained_begin(Edge&) noexcept {
  gate_.shut();
  if (user_ != nullptr) user_->drained_begin();
}

void BlockBackend::drained_end(Edge&) noexcept {
  gate_.open();
  if (user_ != nullptr) user_->drained_end();
}

bool BlockBackend::drained_poll(const Edge&) const noexcept {
  return gate_.inside() != 0 || (user_ != nullptr && user_->drained_poll());
}

void BlockBackend::child_changed(Gs& gs, Edge&) noexcept {
  const Node* node = root_.node(gs);
  read_only_.store(node != nullptr && node->read_only(), std::memory_order_release);
  const uint64_t length = node != nullptr ? node->length() : 0;
  if (length_.exchange(length, std::memory_order_acq_rel) == length) return;
  if (user_ != nullptr) user_->resized(gs);
}

}  // namespace rhea::block
