// Names for clang's thread-safety attributes; GCC sees nothing.
//
// The analysis runs as errors over the whole tree. It does not look through a virtual override
// that lacks the attribute, nor into a lambda: annotate every override, and keep locked code in
// named functions.
#pragma once

#if defined(__clang__)
#define RHEA_TSA(x) __attribute__((x))
#else
#define RHEA_TSA(x)
#endif

#define CAPABILITY(name) RHEA_TSA(capability(name))
#define SCOPED_CAPABILITY RHEA_TSA(scoped_lockable)
#define GUARDED_BY(x) RHEA_TSA(guarded_by(x))
#define PT_GUARDED_BY(x) RHEA_TSA(pt_guarded_by(x))
#define REQUIRES(...) RHEA_TSA(requires_capability(__VA_ARGS__))
#define REQUIRES_SHARED(...) RHEA_TSA(requires_shared_capability(__VA_ARGS__))
#define ACQUIRE(...) RHEA_TSA(acquire_capability(__VA_ARGS__))
#define ACQUIRE_SHARED(...) RHEA_TSA(acquire_shared_capability(__VA_ARGS__))
#define RELEASE(...) RHEA_TSA(release_capability(__VA_ARGS__))
#define RELEASE_SHARED(...) RHEA_TSA(release_shared_capability(__VA_ARGS__))
#define TRY_ACQUIRE(...) RHEA_TSA(try_acquire_capability(__VA_ARGS__))
#define EXCLUDES(...) RHEA_TSA(locks_excluded(__VA_ARGS__))
#define ASSERT_CAPABILITY(x) RHEA_TSA(assert_capability(x))
#define ASSERT_SHARED_CAPABILITY(x) RHEA_TSA(assert_shared_capability(x))
#define RETURN_CAPABILITY(x) RHEA_TSA(lock_returned(x))
#define NO_THREAD_SAFETY_ANALYSIS RHEA_TSA(no_thread_safety_analysis)
