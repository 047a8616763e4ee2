#include "block/drivers/blkdebug.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <iterator>

#include "block/graph.h"
#include "block/node.h"
#include "util/timer.h"

namespace rhea::block {
namespace {

constexpr uint64_t kSector = 512;

/// In the order of Kind.
constexpr std::array<std::string_view, 6> kEvents{"read_aio", "write_aio",     "pwritev_zero",
                                                  "pdiscard", "flush_to_disk", "none"};
constexpr std::array<std::string_view, 6> kIoTypes{"read",    "write", "write-zeroes",
                                                   "discard", "flush", "block-status"};
constexpr size_t kAnyEvent = 5;

}  // namespace

/// A request that waits; on its coroutine's stack.
struct Blkdebug::Waiter {
  Coroutine& coroutine;
  const std::string* tag;  // null: delayed
};

Blkdebug::Blkdebug() : FilterDriver("image") {}
Blkdebug::~Blkdebug() = default;

Result<Blkdebug::Rule> Blkdebug::take_rule(OptionReader& reader) {
  Rule rule;
  const auto event = TRY(reader.take_choice("event", kEvents));
  if (!event) return fail(ErrorKind::kInvalidArgument, "Parameter 'event' is missing");
  if (*event != kAnyEvent) rule.event = static_cast<Kind>(*event);
  if (const auto type = TRY(reader.take_choice("iotype", kIoTypes))) {
    rule.iotype = static_cast<Kind>(*type);
  }
  rule.sector = TRY(reader.take_uint("sector", 0, UINT64_MAX / kSector));
  rule.once = TRY(reader.take_bool("once")).value_or(false);
  constexpr uint64_t kLongest = 60'000'000'000;
  rule.delay =
      Nanoseconds(static_cast<int64_t>(TRY(reader.take_uint("delay-ns", 0, kLongest)).value_or(0)));
  rule.suspend = TRY(reader.take_identifier("suspend")).value_or("");
  const bool waits = rule.delay != Nanoseconds(0) || !rule.suspend.empty();
  constexpr uint64_t kMostErrno = 4095;
  rule.error = static_cast<int>(
      TRY(reader.take_uint("errno", 0, kMostErrno)).value_or(waits ? 0 : uint64_t{EIO}));
  rule.immediately = TRY(reader.take_bool("immediately")).value_or(false);
  rule.torn = TRY(reader.take_size("torn"));
  if (rule.torn && rule.error == 0) {
    return fail(ErrorKind::kInvalidArgument, "'torn' needs a write that fails");
  }
  TRY(reader.finish());
  return rule;
}

Result<Blkdebug::Options> Blkdebug::take_options(OptionReader& reader) {
  Options options;
  const uint64_t align = TRY(reader.take_size("align")).value_or(1);
  constexpr uint64_t kMostAlign = uint64_t{1} << 20;
  if (!std::has_single_bit(align) || align > kMostAlign) {
    return fail(ErrorKind::kInvalidArgument, "Cannot meet constraints with align {}", align);
  }
  const uint64_t max = TRY(reader.take_size("max-transfer")).value_or(0);
  if (max % align != 0) {
    return fail(ErrorKind::kInvalidArgument, "Cannot meet constraints with max-transfer {}", max);
  }
  options.limits.request_alignment = static_cast<uint32_t>(align);
  options.limits.max_transfer = max;
  for (OptionReader& rule : TRY(reader.take_objects("inject-error"))) {
    options.rules.push_back(TRY(take_rule(rule)));
  }
  return options;
}

Result<void> Blkdebug::open(Gs& gs, OpenRequest& request) {
  Options options = TRY(take_options(request.options()));
  TRY(FilterDriver::open(gs, request));
  graph_ = &request.graph();
  limits_ = options.limits;
  state_.with([&](State& state) { state.rules = std::move(options.rules); });
  return ok();
}

class Blkdebug::Reopen final : public ReopenState {
 public:
  Reopen(Blkdebug& driver, Options options) : driver_(driver), options_(std::move(options)) {}
  void commit(GraphWrite&) noexcept override {
    driver_.limits_ = options_.limits;
    driver_.state_.with([&](State& state) { std::swap(state.rules, options_.rules); });
  }

 private:
  Blkdebug& driver_;
  Options options_;
};

Result<std::unique_ptr<ReopenState>> Blkdebug::reopen(Gs& gs, OpenRequest& request) {
  Options options = TRY(take_options(request.options()));
  TRY(FilterDriver::reopen(gs, request));
  return std::make_unique<Reopen>(*this, std::move(options));
}

bool Blkdebug::fits(const Rule& rule, Kind kind, uint64_t offset, uint64_t size) {
  if (rule.event && *rule.event != kind) return false;
  if (rule.iotype ? *rule.iotype != kind : kind == Kind::kStatus) return false;
  if (!rule.sector) return true;
  const uint64_t at = *rule.sector * kSector;
  return at + kSector > offset && at < offset + size;
}

std::optional<Blkdebug::Rule> Blkdebug::apply(Co& co, Kind kind, uint64_t offset, uint64_t size) {
  auto rule = state_.with([&](State& state) -> std::optional<Rule> {
    const auto at = std::ranges::find_if(
        state.rules, [&](const Rule& r) { return fits(r, kind, offset, size); });
    if (at == state.rules.end()) return std::nullopt;
    std::optional<Rule> found(*at);
    if (at->once) state.rules.erase(at);
    return found;
  });
  if (!rule) return rule;
  if (rule->delay != Nanoseconds(0)) delay(co, rule->delay);
  if (!rule->suspend.empty()) suspend(co, rule->suspend);
  if (rule->error != 0 && !rule->immediately) co.reschedule();
  return rule;
}

void Blkdebug::delay(Co& co, Nanoseconds delay) {
  Waiter waiter{co.coroutine(), nullptr};
  const bool waits = state_.with([&](State& state) {
    if (!state.drained) state.waiters.push_back(&waiter);
    return !state.drained;
  });
  if (!waits) return;
  Timer timer(BlockContext::of(co).aio().timers(),
              [&] { wake_if([&](const Waiter& w) { return &w == &waiter; }); });
  timer.arm_after(delay);
  graph_->kick();
  co.yield();
}

void Blkdebug::suspend(Co& co, const std::string& tag) {
  Waiter waiter{co.coroutine(), &tag};
  state_.with([&](State& state) { state.waiters.push_back(&waiter); });
  graph_->kick();  // for a test that waits for it
  co.yield();
}

/// Wakes those of the waiters that `wanted` says; how many.
template <class P>
size_t Blkdebug::wake_if(P&& wanted) {
  const auto woken = state_.with([&](State& state) {
    std::vector<Waiter*> out;
    std::ranges::copy_if(state.waiters, std::back_inserter(out),
                         [&](const Waiter* waiter) { return wanted(*waiter); });
    std::erase_if(state.waiters, [&](const Waiter* waiter) { return wanted(*waiter); });
    return out;
  });
  for (Waiter* waiter : woken) waiter->coroutine.wake();
  return woken.size();
}

size_t Blkdebug::resume(std::string_view tag) {
  return wake_if([&](const Waiter& w) { return w.tag != nullptr && *w.tag == tag; });
}

size_t Blkdebug::suspended(std::string_view tag) const {
  return state_.with([&](const State& state) {
    return static_cast<size_t>(std::ranges::count_if(
        state.waiters, [&](const Waiter* w) { return w->tag != nullptr && *w->tag == tag; }));
  });
}

size_t Blkdebug::delayed() const {
  return state_.with([](const State& state) {
    return static_cast<size_t>(
        std::ranges::count_if(state.waiters, [](const Waiter* w) { return w->tag == nullptr; }));
  });
}

void Blkdebug::drained_begin() noexcept {
  state_.with([](State& state) { state.drained = true; });
  wake_if([](const Waiter& w) { return w.tag == nullptr; });
}

void Blkdebug::drained_end() noexcept {
  state_.with([](State& state) { state.drained = false; });
}

Error Blkdebug::injected(const Rule& rule, Kind kind, uint64_t offset, uint64_t size) {
  return fail_errno(rule.error, "injected into {} of {} bytes at {}",
                    kIoTypes[static_cast<size_t>(kind)], size, offset);
}

Result<void> Blkdebug::inject(Co& co, Kind kind, uint64_t offset, uint64_t size) {
  const auto rule = apply(co, kind, offset, size);
  if (rule && rule->error != 0) return injected(*rule, kind, offset, size);
  return ok();
}

Result<void> Blkdebug::co_read(Co& co, uint64_t offset, IoVector memory) {
  TRY(inject(co, Kind::kRead, offset, memory.size));
  return below().co_read(co, offset, memory);
}

Result<void> Blkdebug::co_write(Co& co, uint64_t offset, IoVector memory, WriteFlags flags) {
  const auto rule = apply(co, Kind::kWrite, offset, memory.size);
  if (!rule || rule->error == 0) return below().co_write(co, offset, memory, flags);
  if (const uint64_t torn = std::min(rule->torn.value_or(0), memory.size); torn != 0) {
    std::vector<iovec> pieces(memory.pieces.size());
    const size_t count = memory.slice(0, torn, pieces);
    TRY(below().co_write(co, offset, {std::span(pieces).first(count), torn}, flags));
  }
  return injected(*rule, Kind::kWrite, offset, memory.size);
}

Result<void> Blkdebug::co_write_zeroes(Co& co, uint64_t offset, uint64_t size, WriteFlags flags) {
  TRY(inject(co, Kind::kZeroes, offset, size));
  return below().co_write_zeroes(co, offset, size, flags);
}

Result<void> Blkdebug::co_discard(Co& co, uint64_t offset, uint64_t size) {
  TRY(inject(co, Kind::kDiscard, offset, size));
  return below().co_discard(co, offset, size);
}

/// A flush touches every sector.
Result<void> Blkdebug::co_flush(Co& co) {
  TRY(inject(co, Kind::kFlush, 0, below().length()));
  return below().co_flush(co);
}

Result<BlockStatus> Blkdebug::co_status(Co& co, uint64_t offset, uint64_t size) {
  TRY(inject(co, Kind::kStatus, offset, size));
  return below().co_status(co, offset, size);
}

}  // namespace rhea::block
