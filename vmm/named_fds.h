// NamedFds: the descriptors that a monitor's clients have passed.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "util/error.h"
#include "util/fd.h"

namespace rhea::vmm {

/// The descriptors of one monitor: the set that came last and waits for a command to take it, and
/// those that have a name ("getfd").
///
/// A set waits until it is taken, another comes, or its client goes; the command that it is for may
/// come long after it. Names outlive the client, so one that lost its connection finds them again.
///
/// Thread: main, service context, BQL held. Owns: the descriptors; what it lets go of is closed.
/// Invariants: at most kMostNamed have names, and one set waits. Errors: in QEMU's words.
class NamedFds {
 public:
  /// Far more than any client needs, and few enough that a monitor does not use up the process's.
  static constexpr size_t kMostNamed = 64;

  /// A set that comes replaces the one that waits.
  void arrive(std::vector<Fd> fds) noexcept { waiting_ = std::move(fds); }
  void drop_waiting() noexcept { waiting_.clear(); }

  /// Gives the first of those that wait a name, which another may have had so far. Nothing waits
  /// afterwards, whatever came of it. Errors: nothing waits; the name begins with a digit, by which
  /// "fd:" tells names from numbers; too many have names.
  Result<void> name_waiting(std::string_view name);
  /// Errors: kNotFound.
  Result<void> close(std::string_view name);
  /// Gives a descriptor away; its name is free again. Errors: kNotFound.
  Result<Fd> take(std::string_view name);

 private:
  std::vector<Fd> waiting_;
  std::map<std::string, Fd, std::less<>> named_;
};

}  // namespace rhea::vmm
