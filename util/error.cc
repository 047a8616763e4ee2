#include "util/error.h"

#include <cerrno>
#include <system_error>

namespace rhea {
namespace {

ErrorKind kind_of_errno(int os_errno) {
  switch (os_errno) {
    case EINVAL:
    case ENAMETOOLONG:
      return ErrorKind::kInvalidArgument;
    case ENOENT:
    case ENODEV:
    case ENXIO:
    case ESRCH:
      return ErrorKind::kNotFound;
    case EEXIST:
      return ErrorKind::kExists;
    case EACCES:
    case EPERM:
    case EROFS:
      return ErrorKind::kPermission;
    case EBUSY:
    case EAGAIN:
    case EADDRINUSE:
    case ETXTBSY:
      return ErrorKind::kBusy;
    case ENOSYS:
    case EOPNOTSUPP:
    case ENOTTY:
      return ErrorKind::kUnsupported;
    case ENOSPC:
    case EDQUOT:
      return ErrorKind::kNoSpace;
    case ENOMEM:
    case EMFILE:
    case ENFILE:
      return ErrorKind::kResource;
    case ETIMEDOUT:
      return ErrorKind::kTimeout;
    case ECANCELED:
      return ErrorKind::kCancelled;
    default:
      return ErrorKind::kIo;
  }
}

}  // namespace

std::string_view to_string(ErrorKind kind) noexcept {
  switch (kind) {
    case ErrorKind::kInvalidArgument:
      return "invalid-argument";
    case ErrorKind::kNotFound:
      return "not-found";
    case ErrorKind::kExists:
      return "exists";
    case ErrorKind::kPermission:
      return "permission";
    case ErrorKind::kBusy:
      return "busy";
    case ErrorKind::kUnsupported:
      return "unsupported";
    case ErrorKind::kIo:
      return "io";
    case ErrorKind::kNoSpace:
      return "no-space";
    case ErrorKind::kResource:
      return "resource";
    case ErrorKind::kCorrupt:
      return "corrupt";
    case ErrorKind::kTimeout:
      return "timeout";
    case ErrorKind::kCancelled:
      return "cancelled";
  }
  RHEA_UNREACHABLE();
}

Error Error::from_errno(int os_errno, std::string_view what) {
  return Error(kind_of_errno(os_errno),
               fmt::format("{}: {}", what, std::generic_category().message(os_errno)), os_errno);
}

}  // namespace rhea
