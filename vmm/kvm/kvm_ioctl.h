// The KVM ioctl boundary: errno becomes Result at the call.
#pragma once

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <string_view>

#include "util/error.h"

namespace rhea::vmm {

/// ioctl(2) on a KVM descriptor, retried on EINTR. Returns its non-negative result.
/// Errors: errno with `what`, the ioctl's name.
template <class Argument>
Result<int> kvm_ioctl(int fd, unsigned long request, Argument argument, std::string_view what) {
  int result = 0;
  do {
    result = ::ioctl(fd, request, argument);
  } while (result < 0 && errno == EINTR);
  if (result < 0) return Error::from_errno(errno, what);
  return result;
}

}  // namespace rhea::vmm

/// KVM_IOCTL(fd, KVM_CREATE_VCPU, index): the request's own name goes into the error.
#define KVM_IOCTL(fd, request, argument) ::rhea::vmm::kvm_ioctl(fd, request, argument, #request)
