// Fifo: a bounded queue without allocation, as the chips have them.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "util/check.h"

namespace rhea::devices::internal {

/// Thread: none of its own. Invariants: at most `Capacity` elements; the caller asks before it
/// pushes or pops.
template <class T, size_t Capacity>
class Fifo {
 public:
  size_t size() const noexcept { return size_; }
  size_t room() const noexcept { return Capacity - size_; }
  bool empty() const noexcept { return size_ == 0; }
  bool full() const noexcept { return size_ == Capacity; }
  void clear() noexcept { head_ = size_ = 0; }

  void push(T value) {
    RHEA_CHECK(!full());
    items_[(head_ + size_++) % Capacity] = value;
  }
  T pop() {
    RHEA_CHECK(!empty());
    const T value = items_[head_];
    head_ = (head_ + 1) % Capacity;
    --size_;
    return value;
  }
  T& front() {
    RHEA_CHECK(!empty());
    return items_[head_];
  }
  /// The i-th element from the front.
  const T& operator[](size_t i) const { return items_[(head_ + i) % Capacity]; }

  /// All of it, the front first.
  std::vector<T> contents() const {
    std::vector<T> items;
    for (size_t i = 0; i < size_; ++i) items.push_back((*this)[i]);
    return items;
  }
  void assign(const std::vector<T>& items) {
    clear();
    for (const T& item : items) push(item);
  }

 private:
  std::array<T, Capacity> items_{};
  size_t head_ = 0;
  size_t size_ = 0;
};

}  // namespace rhea::devices::internal
