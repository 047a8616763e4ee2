// DirtyBitmap: which 4 KiB pages of a RamBlock were written, per client that wants to know.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>

namespace rhea::memory {

/// Who may log. Each client has its own bits, so that one clearing them hides nothing from another.
enum class DirtyClient : uint8_t { kMigration };
inline constexpr unsigned kDirtyClients = 1;

inline constexpr uint64_t kDirtyPageBytes = 4096;
inline constexpr uint64_t kPagesPerWord = 64;

namespace internal {

// Bit c: client c logs. Process-wide, so that a write with nobody logging costs one load and one
// predicted branch. Changed by Topology only, which makes the change visible to every thread.
extern std::atomic<uint32_t> logging_clients;

}  // namespace internal

/// One bit per page and client.
///
/// Thread: any, without a lock. A writer stores its data first and marks second; a client clears
/// first and reads the data second. mark() is a release read-modify-write even where the bit is set
/// already, and clearing is an acquire one: whichever comes second in the word's order either sees
/// the other's effect (the client reads the new data) or leaves the bit set for the next pass. A
/// plain "is it set already?" test in mark() would lose data that is still in a store buffer.
/// Units: offsets and sizes in bytes from the block's start; pages of kDirtyPageBytes.
class DirtyBitmap {
 public:
  explicit DirtyBitmap(uint64_t size_bytes);
  DirtyBitmap(const DirtyBitmap&) = delete;
  DirtyBitmap& operator=(const DirtyBitmap&) = delete;

  /// Marks [offset, offset + size) for every client that logs. Call it after the data landed.
  void mark(uint64_t offset, uint64_t size_bytes) noexcept {
    // The data is stored before the mask is read, in the program and, by Topology's process-wide
    // barrier after a change of the mask, for every thread too. relaxed pairs with that barrier.
    std::atomic_signal_fence(std::memory_order_seq_cst);
    const uint32_t clients = internal::logging_clients.load(std::memory_order_relaxed);
    if (clients != 0) [[unlikely]]
      mark_for(clients, offset, size_bytes);
  }

  /// Sets the bits of [offset, offset + size) for one client, logging or not.
  void set_range(DirtyClient client, uint64_t offset, uint64_t size_bytes) noexcept;
  /// Ors `words` in, from page 64 * first_word on, for every client that logs: what an accelerator
  /// reports. Bits past the block's end are ignored.
  void merge(uint64_t first_word, std::span<const uint64_t> words) noexcept;

  bool test(DirtyClient client, uint64_t page) const noexcept;
  /// Clears the 64 bits of a word and returns what they were.
  uint64_t test_and_clear_word(DirtyClient client, uint64_t word) noexcept;
  /// Clears the bits of [offset, offset + size); true if one was set.
  bool test_and_clear_range(DirtyClient client, uint64_t offset, uint64_t size_bytes) noexcept;
  /// How many bits are set: exact only while nobody marks or clears.
  uint64_t count(DirtyClient client) const noexcept;

  uint64_t pages() const noexcept { return pages_; }
  uint64_t words() const noexcept { return words_; }

 private:
  struct Free {
    void operator()(uint64_t* words) const noexcept { std::free(words); }
  };

  std::atomic_ref<uint64_t> word(DirtyClient client, uint64_t index) const noexcept;
  void mark_for(uint32_t clients, uint64_t offset, uint64_t size_bytes) noexcept;
  /// The bits of word `index` that stand for pages of the block.
  uint64_t valid_bits(uint64_t index) const noexcept;

  const uint64_t pages_;
  const uint64_t words_;
  // calloc, not a vector: untouched pages of a large block's bitmap take no host memory.
  const std::unique_ptr<uint64_t[], Free> bits_;  // accessed through atomic_ref only
};

}  // namespace rhea::memory
