// IoErrorPolicy: what a disk does when the host can not do what it was asked for.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "devices/io_error.h"
#include "util/coroutine.h"
#include "util/error.h"
#include "util/main_loop.h"
#include "util/mutex.h"

namespace rhea::devices {

/// Carries out rerror= and werror=: tells the machine of an error, and keeps a request that stops
/// the machine on its coroutine's stack until the machine goes on, or nobody waits for the request
/// any more.
///
/// Thread: attempt() in coroutines of any context; wake_given_up() on any thread; machine_runs() on
/// main. Invariants: destroyed with no request waiting.
/// What succeeds takes no lock, allocates nothing and calls nothing that is virtual.
class IoErrorPolicy {
 public:
  using Operation = IoError::Operation;

  /// A request that may have to wait for the machine; its transport's view of it.
  class Request {
   public:
    /// Nobody waits for it any more: it is to end soon. Any thread.
    virtual bool given_up() const noexcept = 0;
    /// It waits for a person between the two; a drain does not wait for it. On its coroutine.
    virtual void park() = 0;
    virtual void unpark() = 0;

   protected:
    ~Request() = default;
  };

  struct Config {
    std::string device;  ///< what the errors call it
    std::string node;    ///< at first
    OnIoError on_read_error = OnIoError::kReport;
    OnIoError on_write_error = OnIoError::kNoSpace;
  };
  /// `sink` outlives it, and what it has posted to `loop`.
  IoErrorPolicy(Config config, MainLoop& loop, IoErrorSink& sink)
      : config_(std::move(config)), loop_(loop), sink_(sink), node_(config_.node) {}
  ~IoErrorPolicy();
  IoErrorPolicy(const IoErrorPolicy&) = delete;
  IoErrorPolicy& operator=(const IoErrorPolicy&) = delete;

  /// Does `operation` until it succeeds or its failure is dealt with. Errors: the host's, if the
  /// guest is to hear of it; or the request was given up.
  template <class F>
  Result<void> attempt(Co& co, Request& request, Operation kind, F&& operation) {
    for (;;) {
      const uint64_t run = run_->load(std::memory_order_relaxed);  // an older one does no harm
      Result<void> result = operation();
      if (result.has_value()) [[likely]]
        return result;
      switch (handle(co, request, {kind, run}, result.error())) {
        case Verdict::kAgain:
          continue;
        case Verdict::kIgnored:
          return ok();
        case Verdict::kFailed:
          return result;
      }
    }
  }

  /// What errors from here on say of the node: a medium has been changed. Main.
  void set_node(std::string name) {
    node_.with([&](std::string& node) { node = std::move(name); });
  }
  /// Wakes those that wait and have been given up. After given_up() has become true.
  void wake_given_up();
  /// The machine goes on: what waits is made again.
  void machine_runs() REQUIRES(bql);

 private:
  enum class Verdict : uint8_t { kAgain, kIgnored, kFailed };
  struct Parked;

  /// What was tried, and in which run of the machine.
  struct Attempt {
    Operation kind;
    uint64_t run;
  };
  Verdict handle(Co& co, Request& request, const Attempt& attempt, const Error& error);
  OnIoError action_for(Operation kind, const Error& error) const;
  void wait_for_machine(Co& co, Request& request, const Attempt& attempt, const Error& error);
  void report(Operation kind, OnIoError action, const Error& error, std::optional<uint64_t> run);
  static void wake_all(Parked* woken);

  const Config config_;
  MainLoop& loop_;
  IoErrorSink& sink_;
  Guarded<std::string> node_;
  Mutex mutex_{LockRank::kLeaf};
  Parked* parked_ GUARDED_BY(mutex_) = nullptr;
  // How often the machine has gone on; changes with mutex_ held. Shared with the reports under way,
  // which may outlive the device.
  const std::shared_ptr<std::atomic<uint64_t>> run_ = std::make_shared<std::atomic<uint64_t>>(0);
};

}  // namespace rhea::devices
