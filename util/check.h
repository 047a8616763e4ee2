// RHEA_CHECK: our own invariants, on in every build.
//
// Use it only for what *we* got wrong. Input from a guest, an image, a peer or a client must never
// reach a check: it gets an error or the specification's reaction instead.
#pragma once

#include <fmt/core.h>

#include <string_view>

namespace rhea {

/// Prints the failed condition, its place and the message to stderr, then aborts.
[[noreturn]] void check_failed(const char* condition, const char* file, int line,
                               std::string_view message) noexcept;

}  // namespace rhea

/// Aborts with file, line and an optional fmt message when `condition` does not hold.
#define RHEA_CHECK(condition, ...)                                                         \
  do {                                                                                     \
    if (!(condition)) [[unlikely]] {                                                       \
      ::rhea::check_failed(#condition, __FILE__, __LINE__, ::fmt::format("" __VA_ARGS__)); \
    }                                                                                      \
  } while (false)

/// A place that no input can reach.
#define RHEA_UNREACHABLE(...) \
  ::rhea::check_failed("unreachable", __FILE__, __LINE__, ::fmt::format("" __VA_ARGS__))
