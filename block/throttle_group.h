// ThrottleGroup: limits that several nodes share.
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "block/throttle_limits.h"
#include "util/coroutine.h"
#include "util/error.h"
#include "util/main_wait.h"
#include "util/mutex.h"

namespace rhea::block {

class ThrottleGroup;

/// A node's place in a group. Requests of one member and direction go in the order in which they
/// came; the members take turns.
/// Thread: made, destroyed, suspended and resumed on main; co_admit() in coroutines of any context.
/// Invariants: destroyed when nobody waits (checked).
class ThrottleMember {
 public:
  ThrottleMember(ThrottleGroup& group, bool suspended);
  ~ThrottleMember();
  ThrottleMember(const ThrottleMember&) = delete;
  ThrottleMember& operator=(const ThrottleMember&) = delete;

  ThrottleGroup& group() const noexcept { return group_; }
  /// Waits until a request of this kind may go, and counts it.
  void co_admit(Co& co, ThrottleDirection direction, uint64_t bytes);
  /// Lets all that wait go, and all that come: they are counted, so that the others of the group do
  /// not get more by it.
  void suspend() noexcept;
  void resume() noexcept;

 private:
  friend class ThrottleGroup;
  struct Waiter;
  struct Queue {
    Waiter* first = nullptr;
    Waiter* last = nullptr;
  };
  ThrottleGroup& group_;
  // Under the group's lock.
  bool suspended_;
  std::array<Queue, 2> queues_{};
};

/// Limits, and who has used how much of them.
///
/// Of all who wait in one direction one is elected: it sleeps on a timer of its own context, then
/// goes, and elects the next. Nobody else has a timer.
/// Thread: set_limits() on main; limits() on any. Invariants: outlives its members.
class ThrottleGroup {
 public:
  ThrottleGroup(std::string id, const ThrottleLimits& limits);
  ~ThrottleGroup();
  ThrottleGroup(const ThrottleGroup&) = delete;
  ThrottleGroup& operator=(const ThrottleGroup&) = delete;

  const std::string& id() const noexcept { return id_; }
  ThrottleLimits limits() const;
  /// From now on, for those who wait, too. `limits` is checked.
  void set_limits(Gs& gs, const ThrottleLimits& limits);
  bool in_use(Gs& gs) const;

 private:
  friend class ThrottleMember;
  using Waiter = ThrottleMember::Waiter;

  bool enter(Waiter& waiter);
  Nanoseconds sleep_time(Waiter& waiter);
  void put(Waiter& waiter) REQUIRES(mutex_);
  void take_first(Waiter& waiter) REQUIRES(mutex_);
  Waiter* elect(ThrottleDirection direction) REQUIRES(mutex_);
  static bool rouse(Waiter& waiter);
  static void wake(Waiter* waiter);
  void timer_expired(Waiter& waiter);
  void release_all(ThrottleMember& member);

  const std::string id_;
  std::atomic<bool> unlimited_;
  mutable Mutex mutex_{LockRank::kLeaf};
  ThrottleBuckets buckets_ GUARDED_BY(mutex_);
  std::vector<ThrottleMember*> members_ GUARDED_BY(mutex_);
  std::array<Waiter*, 2> elected_ GUARDED_BY(mutex_){};
  std::array<size_t, 2> turn_ GUARDED_BY(mutex_){};  // the member served last
};

/// The groups of a machine, by id. Thread: main.
class ThrottleGroups {
 public:
  /// Errors: kExists.
  Result<ThrottleGroup*> add(Gs& gs, std::string id, const ThrottleLimits& limits);
  /// Errors: kNotFound; kBusy, nodes use it.
  Result<void> remove(Gs& gs, std::string_view id);
  /// Null if there is none.
  ThrottleGroup* find(Gs& gs, std::string_view id) const noexcept;

 private:
  std::map<std::string, std::unique_ptr<ThrottleGroup>, std::less<>> groups_;
};

}  // namespace rhea::block
