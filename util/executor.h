// Executor: where a suspended activity is resumed.
#pragma once

#include <atomic>

namespace rhea {

class AioContext;

/// Something that an executor can run once more: a coroutine, the reply of a pool's job.
/// The link belongs to the executor between resume_later() and resume().
struct Resumable {
  virtual void resume() = 0;
  std::atomic<Resumable*> next_resumable{nullptr};

 protected:
  ~Resumable() = default;
};

/// A queue with a home thread: an AioContext, or a test's.
class Executor {
 public:
  virtual ~Executor() = default;
  /// Calls `resumable.resume()` on the home thread, soon, once. Any thread; allocates nothing.
  virtual void resume_later(Resumable& resumable) = 0;
  /// The event loop that this is; null for anything else.
  virtual AioContext* aio() noexcept { return nullptr; }
};

}  // namespace rhea
