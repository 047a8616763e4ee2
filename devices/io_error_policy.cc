#include "devices/io_error_policy.h"

#include <cerrno>
#include <cstring>

#include "util/check.h"
#include "util/sync_point.h"

namespace rhea::devices {

/// A request that waits for the machine to go on, on its own stack.
struct IoErrorPolicy::Parked {
  Coroutine& coroutine;
  const Request& request;
  Parked* next = nullptr;
};

IoErrorPolicy::~IoErrorPolicy() {
  RHEA_CHECK(parked_ == nullptr, "a disk goes while requests wait");
}

IoErrorPolicy::Verdict IoErrorPolicy::handle(Co& co, Request& request, const Attempt& attempt,
                                             const Error& error) {
  if (request.given_up()) return Verdict::kFailed;
  // A medium that was taken out after the request had been let in: the guest's to hear of, whatever
  // the policy, as nothing on the host has failed.
  if (error.kind() == ErrorKind::kNotFound && error.os_errno() == 0) return Verdict::kFailed;
  const OnIoError action = action_for(attempt.kind, error);
  if (action == OnIoError::kStop) {
    wait_for_machine(co, request, attempt, error);
    return request.given_up() ? Verdict::kFailed : Verdict::kAgain;
  }
  report(attempt.kind, action, error, std::nullopt);
  return action == OnIoError::kIgnore ? Verdict::kIgnored : Verdict::kFailed;
}

OnIoError IoErrorPolicy::action_for(Operation kind, const Error& error) const {
  const OnIoError policy =
      kind == Operation::kRead ? config_.on_read_error : config_.on_write_error;
  if (policy != OnIoError::kNoSpace) return policy;
  return error.os_errno() == ENOSPC ? OnIoError::kStop : OnIoError::kReport;
}

void IoErrorPolicy::wait_for_machine(Co& co, Request& request, const Attempt& attempt,
                                     const Error& error) {
  Parked self{co.coroutine(), request};
  RHEA_SYNC_POINT("IoErrorPolicy: failed, not yet parked");
  {
    // Before the machine hears of it, and so before it can be told to go on.
    MutexLock lock(mutex_);
    // Who gives a request up does so before it looks at the list: either it finds this one there,
    // or this sees it.
    if (request.given_up()) return;
    // It has stopped for another and gone on since: to have what failed made again, so this too.
    if (run_->load() != attempt.run) return;
    self.next = std::exchange(parked_, &self);
  }
  report(attempt.kind, OnIoError::kStop, error, attempt.run);
  request.park();
  co.yield();
  request.unpark();
}

void IoErrorPolicy::wake_given_up() {
  Parked* woken = nullptr;
  {
    MutexLock lock(mutex_);
    for (Parked** at = &parked_; *at != nullptr;) {
      Parked* parked = *at;
      if (!parked->request.given_up()) {
        at = &parked->next;
        continue;
      }
      *at = parked->next;
      parked->next = std::exchange(woken, parked);
    }
  }
  wake_all(woken);
}

void IoErrorPolicy::machine_runs() {
  Parked* woken = nullptr;
  {
    MutexLock lock(mutex_);
    run_->fetch_add(1);
    woken = std::exchange(parked_, nullptr);
  }
  wake_all(woken);
}

void IoErrorPolicy::wake_all(Parked* woken) {
  while (woken != nullptr) {
    Parked* next = woken->next;  // it lives on the stack that runs once woken
    woken->coroutine.wake();
    woken = next;
  }
}

/// `run`: in which run of the machine, for an error that stops it.
void IoErrorPolicy::report(Operation kind, OnIoError action, const Error& error,
                           std::optional<uint64_t> run) {
  IoError what{.device = config_.device,
               .node = node_.with([](const std::string& node) { return node; }),
               .operation = kind,
               .action = action,
               .os_errno = error.os_errno(),
               .reason = error.os_errno() != 0 ? std::strerror(error.os_errno()) : error.message()};
  loop_.service().post([&sink = sink_, current = run_, run, what = std::move(what)] {
    bql.assert_held();
    // The machine has gone on since, and the request with it: nothing is left to stop for.
    if (run && *run != current->load()) return;
    sink.io_error(what);
  });
}

}  // namespace rhea::devices
