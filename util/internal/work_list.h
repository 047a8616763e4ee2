// WorkList: pushed to by any thread, emptied by one. Lock-free, intrusive.
#pragma once

#include <atomic>

namespace rhea::internal {

/// A stack that the consumer takes whole and reverses, so it runs first in, first out.
/// `Link` is the member with the node's link: std::atomic<T*> T::*.
template <class T, std::atomic<T*> T::* Link>
class WorkList {
 public:
  /// Any thread. The node stays untouched by its owner until it came out of take_all().
  void push(T& node) noexcept {
    T* head = head_.load(std::memory_order_relaxed);
    do {
      (node.*Link).store(head, std::memory_order_relaxed);
      // release: pairs with the acquire in take_all(), which then sees what the node carries
    } while (!head_.compare_exchange_weak(head, &node, std::memory_order_release,
                                          std::memory_order_relaxed));
  }

  /// One consumer: everything pushed so far, oldest first, linked through `Link`.
  T* take_all() noexcept {
    T* node = head_.exchange(nullptr, std::memory_order_acquire);  // pairs with push()
    T* first = nullptr;
    while (node != nullptr) {
      T* next = (node->*Link).load(std::memory_order_relaxed);
      (node->*Link).store(first, std::memory_order_relaxed);
      first = node;
      node = next;
    }
    return first;
  }

  bool empty() const noexcept { return head_.load(std::memory_order_relaxed) == nullptr; }

 private:
  std::atomic<T*> head_{nullptr};
};

/// What a consumer has taken from a WorkList, oldest first. One thread.
template <class T, std::atomic<T*> T::* Link>
class TakenList {
 public:
  /// Puts a chain from take_all() behind what is here.
  void append(T* chain) noexcept {
    if (chain == nullptr) return;
    if (first_ == nullptr) {
      first_ = chain;
    } else {
      (last_->*Link).store(chain, std::memory_order_relaxed);
    }
    last_ = chain;
    while (T* next = (last_->*Link).load(std::memory_order_relaxed)) last_ = next;
  }

  /// The oldest, which is then the caller's; null if there is none.
  T* pop() noexcept {
    T* node = first_;
    if (node != nullptr) first_ = (node->*Link).load(std::memory_order_relaxed);
    return node;
  }

  bool empty() const noexcept { return first_ == nullptr; }

 private:
  T* first_ = nullptr;
  T* last_ = nullptr;  // meaningless while empty
};

}  // namespace rhea::internal
