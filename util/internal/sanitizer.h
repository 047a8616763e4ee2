// Which sanitizer this build carries.
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#define RHEA_ASAN 1
#endif
#if defined(__SANITIZE_THREAD__)
#define RHEA_TSAN 1
#endif
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define RHEA_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define RHEA_TSAN 1
#endif
#endif

/// For code that runs while the stack pointer and TSan's idea of the current fiber disagree.
#if defined(RHEA_TSAN) && defined(__clang__)
#define RHEA_NO_TSAN __attribute__((disable_sanitizer_instrumentation, noinline))
#else
#define RHEA_NO_TSAN
#endif
