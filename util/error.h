// Result<T>, Error and TRY: how a failure of the host travels.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

#include "util/check.h"

namespace rhea {

/// What callers switch on. Small and stable: a new subsystem adds text, not kinds.
enum class ErrorKind : uint8_t {
  kInvalidArgument,  ///< the caller (a person, a client) asked for something malformed
  kNotFound,         ///< the named thing does not exist
  kExists,           ///< the named thing exists already
  kPermission,       ///< the host refuses
  kBusy,             ///< in use, or the wrong moment
  kUnsupported,      ///< known, but not here
  kIo,               ///< the host failed to read or write
  kNoSpace,          ///< the host ran out of storage
  kResource,         ///< out of memory, descriptors or another limit
  kCorrupt,          ///< data from outside does not follow its format
  kTimeout,
  kCancelled,
};

/// The stable lower-case name of a kind, for logs.
std::string_view to_string(ErrorKind kind) noexcept;

/// A failure with what a person needs to act on it.
/// Invariants: `message()` is one line, without the program's name and without a full stop.
class Error {
 public:
  Error(ErrorKind kind, std::string message, int os_errno = 0)
      : kind_(kind), os_errno_(os_errno), message_(std::move(message)) {}

  /// An error from errno: the kind follows from `os_errno`, the text is "`what`: strerror".
  static Error from_errno(int os_errno, std::string_view what);

  ErrorKind kind() const noexcept { return kind_; }
  /// The errno behind this error, or 0.
  int os_errno() const noexcept { return os_errno_; }
  const std::string& message() const noexcept { return message_; }

  /// The same error with "`what`: " before its text; used where an error crosses a layer.
  Error context(std::string_view what) && {
    message_ = fmt::format("{}: {}", what, message_);
    return std::move(*this);
  }

 private:
  ErrorKind kind_;
  int os_errno_;
  std::string message_;
};

/// std::expected that may not be dropped on the floor.
template <class T>
class [[nodiscard]] Result : public std::expected<T, Error> {
 public:
  using std::expected<T, Error>::expected;
  Result(Error error) : std::expected<T, Error>(std::unexpect, std::move(error)) {}
};

/// The success value of a Result<void>.
inline Result<void> ok() { return Result<void>(); }

/// Builds an Error with a formatted message: `return fail(ErrorKind::kBusy, "node {}", name);`
template <class... Args>
Error fail(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  return Error(kind, fmt::format(format, std::forward<Args>(args)...));
}

/// Builds an Error from errno with a formatted "what": take errno as an argument, at once.
template <class... Args>
Error fail_errno(int os_errno, fmt::format_string<Args...> format, Args&&... args) {
  return Error::from_errno(os_errno, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace rhea

// Each use gets a name of its own, so that one may stand inside another.
#define RHEA_JOIN_(a, b) a##b
#define RHEA_JOIN(a, b) RHEA_JOIN_(a, b)

/// Evaluates to the value of a Result, or returns its error from the enclosing function. What the
/// rest of the expression has allocated or made by then is not undone: `new T(TRY(..))` leaks on an
/// error.
#define TRY(expression) RHEA_TRY(expression, RHEA_JOIN(rhea_try_, __COUNTER__))
#define RHEA_TRY(expression, result)      \
  __extension__({                         \
    auto result = (expression);           \
    if (!result.has_value()) [[unlikely]] \
      return std::move(result).error();   \
    std::move(result).value();            \
  })

/// For a Result that cannot fail here: aborts with the error if it does.
#define MUST(expression) RHEA_MUST(expression, RHEA_JOIN(rhea_must_, __COUNTER__))
#define RHEA_MUST(expression, result)                                                  \
  __extension__({                                                                      \
    auto result = (expression);                                                        \
    if (!result.has_value()) [[unlikely]]                                              \
      ::rhea::check_failed(#expression, __FILE__, __LINE__, result.error().message()); \
    std::move(result).value();                                                         \
  })
