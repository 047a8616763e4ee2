#include "block/mirror.h"

#include <algorithm>
#include <bit>

#include "block/aligned_buffer.h"
#include "block/filter_driver.h"
#include "util/check.h"
#include "util/log.h"

namespace rhea::block {
namespace {

constexpr Nanoseconds kSlice = std::chrono::milliseconds(100);

Nanoseconds now() { return std::chrono::steady_clock::now().time_since_epoch(); }

constexpr Permissions kReader{.taken = Perm::kConsistentRead,
                              .shared = Perm::kAll & ~Perm::kResize};
constexpr Permissions kWriter{.taken = Perm::kWrite, .shared = Perm::kWriteUnchanged};

}  // namespace

/// Passes everything through, and marks what was written once it is.
class Mirror::Filter final : public FilterDriver {
 public:
  Filter(std::shared_ptr<DirtyMap> dirty, Mirror& job) : dirty_(std::move(dirty)), job_(job) {}

  std::string_view name() const noexcept override { return "mirror_top"; }
  Result<void> open(Gs&, OpenRequest&) override {
    return fail(ErrorKind::kUnsupported, "'mirror_top' is made by a mirror only");
  }
  Result<std::unique_ptr<ReopenState>> reopen(Gs& gs, OpenRequest& request) override {
    return BlockDriver::reopen(gs, request);  // it has no options
  }

  Result<void> co_write(Co& co, uint64_t offset, IoVector memory, WriteFlags flags) override
      REQUIRES_SHARED(graph_lock) {
    auto result = below().co_write(co, offset, memory, flags);
    written(offset, memory.size);
    return result;
  }
  Result<void> co_write_zeroes(Co& co, uint64_t offset, uint64_t size, WriteFlags flags) override
      REQUIRES_SHARED(graph_lock) {
    auto result = below().co_write_zeroes(co, offset, size, flags);
    written(offset, size);
    return result;
  }
  Result<void> co_discard(Co& co, uint64_t offset, uint64_t size) override
      REQUIRES_SHARED(graph_lock) {
    auto result = below().co_discard(co, offset, size);
    written(offset, size);
    return result;
  }
  /// The job has its source's length from beginning to end.
  Result<void> co_resize(Co& co, uint64_t size) override REQUIRES_SHARED(graph_lock) {
    return BlockDriver::co_resize(co, size);
  }

 private:
  /// Also after a failure: half of it may have landed.
  void written(uint64_t offset, uint64_t size) {
    dirty_->mark(offset, size);
    job_.kick();
  }

  const std::shared_ptr<DirtyMap> dirty_;
  Mirror& job_;  // which takes the filter out before it goes
};

Mirror::Mirror(Graph& graph, const MirrorConfig& config, Node& source, Node& target,
               AioContext& context)
    : Job(graph, config.id, context),
      source_(source),
      target_(target),
      dirty_(std::make_shared<DirtyMap>(source.length(), config.granularity)),
      from_(graph, config.id, kReader),
      to_(graph, config.id, kWriter) {
  for (BlockBackend* backend : {&from_, &to_}) backend->let_requests_pass();
}

Mirror::~Mirror() = default;

Result<std::unique_ptr<Mirror>> Mirror::create(Gs& gs, Graph& graph, Node& source, Node& target,
                                               const MirrorConfig& config) {
  if (&source == &target) {
    return fail(ErrorKind::kInvalidArgument, "Can't mirror node into itself");
  }
  if (!std::has_single_bit(config.granularity) || config.granularity < 512 ||
      config.granularity > (uint64_t{64} << 20)) {
    return fail(ErrorKind::kInvalidArgument,
                "Parameter 'granularity' expects a power of 2 in range [512B, 64MB]");
  }
  if (!target.active()) {
    return fail(ErrorKind::kPermission,
                "Block node '{}' is inactive: its image is another process's", target.name());
  }
  if (target.length() < source.length()) {
    return fail(ErrorKind::kInvalidArgument,
                "target node '{}' of {} bytes is smaller than '{}' of {}", target.name(),
                target.length(), source.name(), source.length());
  }
  auto job =
      std::unique_ptr<Mirror>(new Mirror(graph, config, source, target, graph.loop().block()));
  auto ready = job->set_up(gs, config);
  if (!ready) {
    job->clean_up(gs);
    return std::move(ready).error();
  }
  return job;
}

Result<void> Mirror::set_up(Gs& gs, const MirrorConfig& config) {
  auto driver = std::make_unique<Filter>(dirty_, *this);
  filter_ = TRY(graph().add_filter(gs, std::move(driver), config.filter_name, *source_));
  TRY(to_.insert(gs, *target_));
  TRY(graph().replace(gs, *source_, *filter_));
  in_place_ = true;
  TRY(from_.insert(gs, *source_));
  from_.set_user(this);
  to_.set_user(this);
  dirty_->mark_all();
  set_length(dirty_->dirty_bytes());
  set_speed(config.speed);
  return ok();
}

Result<void> Mirror::copy(Co& co, DirtyMap::Run run) {
  AlignedBuffer buffer(run.size, 4096);
  const iovec piece = buffer.piece(run.size);
  const IoVector memory = IoVector::of(std::span(&piece, 1));
  auto result = from_.co_read(co, run.offset, memory);
  if (result.has_value()) result = to_.co_write(co, run.offset, memory);
  if (!result.has_value()) dirty_->mark(run.offset, run.size);
  return result;
}

bool Mirror::is_under_way(const DirtyMap::Run& run) const {
  return std::ranges::any_of(under_way_, [&run](const DirtyMap::Run& other) {
    return run.offset < other.offset + other.size && other.offset < run.offset + run.size;
  });
}

/// A helper copies the next run, if there is one; false if that has to wait for another's end.
bool Mirror::start_copy() {
  auto run = dirty_->take(next_, kStepBytes);
  if (!run) run = dirty_->take(0, kStepBytes);
  if (!run) return true;
  next_ = run->offset + run->size;
  if (is_under_way(*run)) {
    dirty_->mark(run->offset, run->size);
    return false;
  }
  slice_bytes_ += run->size;
  ++helpers_;
  under_way_.push_back(*run);
  const auto started = start_helper([this, run = *run](Co& co) {
    auto copied = copy(co, run);
    if (copied.has_value()) {
      add_offset(run.size);
    } else if (!failure_) {
      failure_ = copied.error();
    }
    end_copy(run);
  });
  if (!started) {
    dirty_->mark(run->offset, run->size);
    end_copy(*run);
    if (helpers_ == 0) failure_ = started.error();
  }
  return true;
}

void Mirror::end_copy(const DirtyMap::Run& run) {
  std::erase_if(under_way_, [&run](const auto& other) { return other.offset == run.offset; });
  --helpers_;
}

/// Waits for the end of a time slice in which as much was copied as the speed allows.
void Mirror::throttle(Co& co) {
  const uint64_t limit = speed();
  if (limit == 0) return;
  const uint64_t each = std::max<uint64_t>(1, limit / (std::chrono::seconds(1) / kSlice));
  while (slice_bytes_ >= each && speed() == limit && !should_stop()) {
    const Nanoseconds end = slice_start_ + kSlice;
    if (now() >= end) {
      slice_start_ = now();
      slice_bytes_ -= std::min(slice_bytes_, each);
    } else {
      wait(co, end - now());
    }
  }
}

Result<void> Mirror::work(Co& co) {
  slice_start_ = now();
  while (pause_point(co) && !failure_) {
    // A copy under way is not marked: only without any has the target all that the source has.
    const bool equal = helpers_ == 0 && dirty_->empty();
    if (equal && !ready_) {
      ready_ = true;
      set_ready();
    }
    if (ready_ && completing() && helpers_ == 0) break;
    const bool may_start = helpers_ < kHelpers && !dirty_->empty() && !completing();
    if (may_start) {
      throttle(co);
      if (pause_point(co) && !start_copy()) wait(co);
    } else {
      wait(co);
    }
  }
  while (helpers_ != 0) wait(co);
  if (failure_) return *failure_;
  return ok();
}

/// With the guest quiet: what it has written since.
Result<void> Mirror::copy_rest(Co& co) {
  while (const auto run = dirty_->take(0, kStepBytes)) {
    TRY(copy(co, *run));
    add_length(run->size);
    add_offset(run->size);
  }
  return to_.co_flush(co);
}

Result<void> Mirror::finish(Gs& gs, bool pivot) {
  return graph().with_all_drained(gs, [&](DrainBypass&) -> Result<void> {
    TRY(graph().run_sync(gs, context(), [this](Co& co) { return copy_rest(co); }));
    if (!pivot) return ok();
    GraphTransaction transaction(gs);
    graph().move_parents(gs, *filter_, *target_, transaction);
    to_.remove_with(transaction);
    TRY(transaction.prepare());
    TRY(graph().change(gs, [&](GraphWrite& write) {
      transaction.commit(write);
      graph().tell_parents(gs, *target_);
    }));
    in_place_ = false;
    return ok();
  });
}

void Mirror::clean_up(Gs& gs) {
  from_.set_user(nullptr);
  to_.set_user(nullptr);
  const auto undo = [this](const char* what, const Result<void>& result) {
    if (result.has_value()) return;
    RHEA_LOG(kBlock, kWarn, "job '{}': {}: {}", id(), what, result.error().message());
  };
  if (in_place_) undo("leaving the source", graph().replace(gs, *filter_, *source_));
  undo("closing the source", from_.remove(gs));
  undo("closing the target", to_.remove(gs));
  filter_ = {};
  source_ = {};
  target_ = {};
  graph().close_unused(gs);
}

}  // namespace rhea::block
