#include "vmm/named_fds.h"

#include <utility>

namespace rhea::vmm {
namespace {

bool starts_with_digit(std::string_view text) {
  return !text.empty() && text.front() >= '0' && text.front() <= '9';
}

}  // namespace

Result<void> NamedFds::name_waiting(std::string_view name) {
  std::vector<Fd> set = std::exchange(waiting_, {});
  if (set.empty()) {
    return fail(ErrorKind::kInvalidArgument, "No file descriptor supplied via SCM_RIGHTS");
  }
  if (starts_with_digit(name)) {
    return fail(ErrorKind::kInvalidArgument,
                "Parameter 'fdname' expects a name not starting with a digit");
  }
  if (const auto found = named_.find(name); found != named_.end()) {
    found->second = std::move(set.front());
    return ok();
  }
  if (named_.size() >= kMostNamed) {
    return fail(ErrorKind::kResource, "Too many file descriptors: {} have names already",
                kMostNamed);
  }
  named_.emplace(name, std::move(set.front()));
  return ok();
}

Result<void> NamedFds::close(std::string_view name) {
  const auto found = named_.find(name);
  if (found == named_.end()) {
    return fail(ErrorKind::kNotFound, "File descriptor named '{}' not found", name);
  }
  named_.erase(found);
  return ok();
}

Result<Fd> NamedFds::take(std::string_view name) {
  const auto found = named_.find(name);
  if (found == named_.end()) {
    return fail(ErrorKind::kNotFound, "File descriptor named '{}' has not been found", name);
  }
  return std::move(named_.extract(found).mapped());
}

}  // namespace rhea::vmm
