// IoThreadObject: -object iothread: a thread for virtqueues and block requests.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "block/block_context.h"
#include "util/io_thread.h"
#include "vmm/object_table.h"

namespace rhea::vmm {

/// A thread with an event loop that the block layer knows.
///
/// Thread: main, service context, BQL held. Owns: the thread. Invariants: no user outlives it.
class IoThreadObject final : public UserObject {
 public:
  static constexpr std::string_view kType = "iothread";
  static std::span<const ObjectProperty> properties();

  /// How its loop looks around before it sleeps; the names and the defaults are QEMU's.
  struct Polling {
    uint64_t max_ns = 32768;  ///< 0: it sleeps at once
    uint64_t grow = 0;        ///< 0: by the usual factor
    uint64_t shrink = 0;      ///< 0: down to nothing at once
  };

  /// Errors: kInvalidArgument; kResource, no more threads or block contexts.
  static Result<std::unique_ptr<UserObject>> create(Gs& gs, block::Graph& graph,
                                                    const std::string& id, OptionReader& options);
  ~IoThreadObject() override;

  AioContext& context() noexcept { return thread_->context(); }
  int thread_id() const noexcept { return thread_->thread_id(); }
  const Polling& polling() const noexcept { return polling_; }
  void set_polling(const Polling& polling);
  std::string user() const override { return users_.empty() ? std::string() : users_.front(); }

 private:
  friend class IoThreadUse;
  IoThreadObject(std::unique_ptr<IOThread> thread, const Polling& polling)
      : thread_(std::move(thread)), polling_(polling) {}

  std::unique_ptr<IOThread> thread_;
  std::unique_ptr<block::BlockContext> block_;  // goes before the thread
  Polling polling_;
  std::vector<std::string> users_;
};

/// Keeps an iothread from being deleted as long as it lives.
/// Thread: as IoThreadObject.
class IoThreadUse {
 public:
  /// `user` as an error names it: "device 'vd0'".
  IoThreadUse(IoThreadObject& iothread, std::string user);
  ~IoThreadUse();
  IoThreadUse(IoThreadUse&& other) noexcept
      : iothread_(std::exchange(other.iothread_, nullptr)), user_(std::move(other.user_)) {}
  IoThreadUse& operator=(IoThreadUse&&) = delete;

  const IoThreadObject& iothread() const noexcept { return *iothread_; }

 private:
  IoThreadObject* iothread_;
  std::string user_;
};

}  // namespace rhea::vmm
