// What happens when the host can not do what a disk was asked for.
#pragma once

#include <cstdint>
#include <string>

#include "util/bql.h"

namespace rhea::devices {

/// -device werror=, rerror=.
enum class OnIoError : uint8_t {
  kReport,   ///< the guest hears of it
  kIgnore,   ///< the guest is told that all is well
  kStop,     ///< the machine stops, and the request is made again when it goes on
  kNoSpace,  ///< stop when the host is out of space, else report
};

struct IoError {
  std::string device;  ///< its id, or its path if it has none
  std::string node;
  enum class Operation : uint8_t { kRead, kWrite } operation = Operation::kRead;
  OnIoError action = OnIoError::kReport;  ///< what is done: not kNoSpace
  int os_errno = 0;
  std::string reason;
};

/// The machine's side: tells monitors, and stops.
/// Thread: main, service context.
class IoErrorSink {
 public:
  virtual ~IoErrorSink() = default;
  virtual void io_error(const IoError& error) REQUIRES(bql) = 0;
};

}  // namespace rhea::devices
