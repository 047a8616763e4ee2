// blkdebug: a filter that makes requests fail, late, half done or not at all, as tests want it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "block/filter_driver.h"
#include "util/clock.h"
#include "util/mutex.h"

namespace rhea::block {

/// Child `image`. Options, beside those named here all of a filter's:
///  - `align`: requests below it are whole blocks of that size; `max-transfer`: and no larger.
///  - `inject-error`: a list of rules; for each request the first that fits applies. A rule says
///    which requests: `event` (none: any; read_aio, write_aio, pwritev_zero, pdiscard or
///    flush_to_disk), `iotype` (read, write, write-zeroes, discard, flush or block-status; without
///    it all but the last), `sector` (of 512 bytes, that the request touches), `once`;
///    and what happens, in this order: `delay-ns`; `suspend`: waits until a test calls resume()
///    with this tag; `errno`: fails with it, after a turn of the loop unless `immediately`; 0: does
///    not fail, which is the default if there is a delay or suspension, and 5 (EIO) if there is
///    none. `torn`: of a write that fails as many bytes are written first.
/// All can be changed when it is reopened.
///
/// Thread: suspended() and resume() on any. Invariants: a drain ends delays; suspended requests
/// only their test lets go, so that a drain can be made to wait.
class Blkdebug final : public FilterDriver {
 public:
  static constexpr std::string_view kName = "blkdebug";

  Blkdebug();
  ~Blkdebug() override;

  /// Requests that wait for resume(tag).
  size_t suspended(std::string_view tag) const;
  /// Lets those go that wait; how many.
  size_t resume(std::string_view tag);
  /// Requests that are being delayed.
  size_t delayed() const;

  std::string_view name() const noexcept override { return kName; }
  Result<void> open(Gs& gs, OpenRequest& request) override;
  Result<std::unique_ptr<ReopenState>> reopen(Gs& gs, OpenRequest& request) override;
  void drained_begin() noexcept override;
  void drained_end() noexcept override;
  BlockLimits limits(Gs&) const override { return limits_; }

  Result<void> co_read(Co& co, uint64_t offset, IoVector memory) override
      REQUIRES_SHARED(graph_lock);
  Result<void> co_write(Co& co, uint64_t offset, IoVector memory, WriteFlags flags) override
      REQUIRES_SHARED(graph_lock);
  Result<void> co_write_zeroes(Co& co, uint64_t offset, uint64_t size, WriteFlags flags) override
      REQUIRES_SHARED(graph_lock);
  Result<void> co_discard(Co& co, uint64_t offset, uint64_t size) override
      REQUIRES_SHARED(graph_lock);
  Result<void> co_flush(Co& co) override REQUIRES_SHARED(graph_lock);
  Result<BlockStatus> co_status(Co& co, uint64_t offset, uint64_t size) override
      REQUIRES_SHARED(graph_lock);

 private:
  class Reopen;
  struct Waiter;
  /// The place of a request's kind in the tables of names.
  enum class Kind : uint8_t { kRead, kWrite, kZeroes, kDiscard, kFlush, kStatus };
  struct Rule {
    std::optional<Kind> event;   // none: any
    std::optional<Kind> iotype;  // none: any but kStatus
    std::optional<uint64_t> sector;
    bool once = false;
    Nanoseconds delay{0};
    std::string suspend;
    int error = 0;
    bool immediately = false;
    std::optional<uint64_t> torn;
  };
  struct Options {
    std::vector<Rule> rules;
    BlockLimits limits;
  };
  struct State {
    std::vector<Rule> rules;
    std::vector<Waiter*> waiters;  // who takes one out wakes it
    bool drained = false;
  };

  static Result<Options> take_options(OptionReader& reader);
  static Result<Rule> take_rule(OptionReader& reader);
  static bool fits(const Rule& rule, Kind kind, uint64_t offset, uint64_t size);
  /// The rule for this request, if any, after what it waits for.
  std::optional<Rule> apply(Co& co, Kind kind, uint64_t offset, uint64_t size);
  Result<void> inject(Co& co, Kind kind, uint64_t offset, uint64_t size);
  void delay(Co& co, Nanoseconds delay);
  void suspend(Co& co, const std::string& tag);
  template <class P>
  size_t wake_if(P&& wanted);
  static Error injected(const Rule& rule, Kind kind, uint64_t offset, uint64_t size);

  Graph* graph_ = nullptr;
  BlockLimits limits_;  // changes in write sections
  Guarded<State> state_;
};

}  // namespace rhea::block
