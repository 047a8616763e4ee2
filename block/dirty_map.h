// DirtyMap: which parts of an image have been written.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

namespace rhea::block {

/// A bit for each granule of an image.
/// Thread: any, several at once. Units: bytes; the granularity is a power of two.
class DirtyMap {
 public:
  DirtyMap(uint64_t length, uint64_t granularity);

  /// Marks every granule that [offset, offset + size) touches.
  void mark(uint64_t offset, uint64_t size) noexcept;
  void mark_all() noexcept;

  struct Run {
    uint64_t offset = 0;
    uint64_t size = 0;  ///< ends at the image's end at most
  };
  /// Clears and returns the first run of marked granules at or after `from`, of at most `most`
  /// bytes. What was written before a mark that this takes is seen by whoever reads afterwards.
  std::optional<Run> take(uint64_t from, uint64_t most) noexcept;

  bool empty() const noexcept { return marked_.load(std::memory_order_acquire) == 0; }
  /// Roughly: other threads mark.
  uint64_t dirty_bytes() const noexcept;

 private:
  bool test_and_clear(uint64_t granule) noexcept;

  const uint64_t length_;
  const uint64_t granularity_;
  const uint64_t granules_;
  std::unique_ptr<std::atomic<uint64_t>[]> words_;
  std::atomic<int64_t> marked_{0};
};

}  // namespace rhea::block
