// IOThread: a thread that does nothing but serve one AioContext.
#pragma once

#include <memory>
#include <string>

#include "util/aio_context.h"
#include "util/error.h"

namespace rhea {

/// A thread with an event loop: virtqueues and block I/O live on it. It never takes the BQL.
///
/// Thread: create() and destruction on one thread (main); context() from any.
/// Owns: the thread and its context.
/// Invariants: the context's home is the new thread from before create() returns until the
/// destructor has joined it; then it is the destroying thread, where what is left in the context
/// ends.
class IOThread {
 public:
  /// Starts the thread. `name` shows in ps and in traces.
  /// Errors: kResource when the host gives no thread or no descriptor.
  static Result<std::unique_ptr<IOThread>> create(std::string name,
                                                  const BusyPollParams& busy_poll = {});
  /// Runs what was posted and scheduled so far, then stops and joins. Watches, timers, requests in
  /// the ring and its files must be gone by then, or go with what was posted.
  ~IOThread();
  IOThread(const IOThread&) = delete;
  IOThread& operator=(const IOThread&) = delete;

  AioContext& context() noexcept;
  const std::string& name() const noexcept;
  /// The kernel's id of the thread.
  int thread_id() const noexcept;

 private:
  struct Impl;
  explicit IOThread(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace rhea
