// Tests that use io_uring, on hosts that refuse it (kernel.io_uring_disabled, a container's
// filter): they are skipped, and say what stands behind it.
#pragma once

#include <catch2/catch.hpp>
#include <string>

#include "util/aio_context.h"
#include "util/io_ring.h"

namespace rhea::test {

/// Why this host gives no io_uring; empty if it does.
inline std::string io_ring_refusal() {
  const auto context = MUST(AioContext::create("asks for a ring"));
  return context->io_ring() != nullptr ? std::string() : context->io_ring_refusal();
}

}  // namespace rhea::test

/// The first line of a test that can not do without.
#define SKIP_WITHOUT_IO_RING()                                                       \
  if (const std::string refusal = rhea::test::io_ring_refusal(); !refusal.empty()) { \
    WARN("SKIP: no io_uring here: " << refusal);                                     \
    return;                                                                          \
  }                                                                                  \
  static_assert(true)
