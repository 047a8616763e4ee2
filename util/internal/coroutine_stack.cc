#include "util/internal/coroutine_stack.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <memory>
#include <new>

#include "util/internal/sanitizer.h"
#include "util/mutex.h"

#ifdef RHEA_TSAN
#include <sanitizer/tsan_interface.h>
#endif

namespace rhea::internal {
namespace {

std::atomic<size_t> g_made{0};

class StackList {
 public:
  void push(CoroutineStack* stack) noexcept {
    stack->next = head_;
    head_ = stack;
    ++size_;
  }
  CoroutineStack* pop() noexcept {
    CoroutineStack* stack = head_;
    if (stack != nullptr) {
      head_ = stack->next;
      --size_;
    }
    return stack;
  }
  size_t size() const noexcept { return size_; }

 private:
  CoroutineStack* head_ = nullptr;
  size_t size_ = 0;
};

/// What all threads share. Never destroyed: a thread may end after main's statics are gone.
Guarded<StackList>& common_pool() {
  static auto* pool = new Guarded<StackList>();
  return *pool;
}

/// This thread's stacks; the common pool gets them when the thread ends.
struct ThreadPoolOfStacks {
  ThreadPoolOfStacks() = default;
  ThreadPoolOfStacks(const ThreadPoolOfStacks&) = delete;
  ThreadPoolOfStacks& operator=(const ThreadPoolOfStacks&) = delete;
  ~ThreadPoolOfStacks() {
    common_pool().with([this](StackList& common) {
      while (CoroutineStack* stack = list.pop()) common.push(stack);
    });
  }
  StackList list;
};

thread_local ThreadPoolOfStacks t_pool;

Result<CoroutineStack*> make_stack() {
  if (g_made.fetch_add(1, std::memory_order_relaxed) >= kMaxStacks) {
    g_made.fetch_sub(1, std::memory_order_relaxed);
    return fail(ErrorKind::kResource, "{} coroutines exist already", kMaxStacks);
  }
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  void* map = ::mmap(nullptr, kStackBytes + page, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED || ::mprotect(map, page, PROT_NONE) < 0) {
    const int error = errno;
    if (map != MAP_FAILED) ::munmap(map, kStackBytes + page);
    g_made.fetch_sub(1, std::memory_order_relaxed);
    return fail_errno(error, "cannot map a coroutine stack");
  }
  auto stack = std::make_unique<CoroutineStack>();
  stack->base = static_cast<std::byte*>(map) + page;
#ifdef RHEA_TSAN
  stack->tsan_fiber = __tsan_create_fiber(0);
#endif
  return stack.release();
}

}  // namespace

Result<CoroutineStack*> take_stack() {
  if (CoroutineStack* stack = t_pool.list.pop()) return stack;
  CoroutineStack* shared = common_pool().with([](StackList& common) { return common.pop(); });
  if (shared != nullptr) return shared;
  return make_stack();
}

void give_stack(CoroutineStack* stack) noexcept {
  if (t_pool.list.size() < kStacksPerThread) return t_pool.list.push(stack);
  common_pool().with([stack](StackList& common) { common.push(stack); });
}

size_t stacks_made() noexcept { return g_made.load(std::memory_order_relaxed); }

}  // namespace rhea::internal
