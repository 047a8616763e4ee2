#include "util/internal/ring_memory.h"

#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <iterator>
#include <utility>

#include "util/log.h"

namespace rhea::internal {
namespace {

constexpr size_t kChunkBytes = size_t{1} << 30;
constexpr size_t kMiB = size_t{1} << 20;
constexpr int kNoSlot = -1;

/// Why the kernel does not pin memory, for whoever has to change it.
Error refusal(int error) {
  rlimit limit{};
  switch (error) {
    case ENOMEM:
      ::getrlimit(RLIMIT_MEMLOCK, &limit);
      if (limit.rlim_cur == RLIM_INFINITY) break;
      return fail_errno(error, "RLIMIT_MEMLOCK is {} MiB, and each io_uring counts what it pins",
                        limit.rlim_cur / kMiB);
    case EFAULT:
    case EOPNOTSUPP:
      return fail_errno(error, "the kernel does not pin this kind, as that of a file on a disk");
    case EINVAL:
      return fail_errno(error, "the kernel's io_uring is too old");
    case EPERM:
    case ENOSYS:
      return fail_errno(error, "a system call filter refuses it");
    default:
      break;
  }
  return fail_errno(error, "io_uring_register");
}

void log_refusal(size_t bytes, const Error& error) {
  static std::atomic<bool> logged{false};
  if (logged.exchange(true)) return;
  RHEA_LOG(kUtil, kInfo, "{} MiB of memory are pinned for each request anew: {}", bytes / kMiB,
           error.message());
}

}  // namespace

struct RingMemory::Range {
  explicit Range(std::shared_ptr<const MemoryRange> m)
      : memory(std::move(m)), slots((memory->bytes.size() + kChunkBytes - 1) / kChunkBytes) {
    std::ranges::fill(slots, kNoSlot);
  }
  uintptr_t begin() const { return reinterpret_cast<uintptr_t>(memory->bytes.data()); }

  const std::shared_ptr<const MemoryRange> memory;
  std::vector<int> slots;  // of each chunk, or kNoSlot
  bool refused = false;    // the kernel said no once: it is not asked again
  uint32_t transfers = 0;  // that name it
};

RingMemory::RingMemory(io_uring& ring) : ring_(ring) {}
RingMemory::~RingMemory() = default;

void RingMemory::update() {
  const MemoryRanges present = memory_ranges();
  const auto gone = std::ranges::partition(ranges_, [&](const auto& range) {
    return std::ranges::find(present, range->memory) != present.end();
  });
  std::ranges::move(gone, std::back_inserter(retiring_));
  ranges_.erase(gone.begin(), gone.end());
  std::erase_if(retiring_, [this](const auto& r) { return r->transfers == 0 && empty_slots(*r); });
  for (const auto& memory : present) {
    if (std::ranges::none_of(ranges_, [&](const auto& r) { return r->memory == memory; })) {
      ranges_.push_back(std::make_unique<Range>(memory));
    }
  }
}

RingMemory::Place RingMemory::find(uintptr_t address, size_t length) {
  for (const auto& range : ranges_) {
    // Below the range, too, it is past the end.
    const size_t offset = address - range->begin();
    const size_t size = range->memory->bytes.size();
    if (offset >= size || length > size - offset || length == 0) continue;
    const size_t chunk = offset / kChunkBytes;
    if ((offset + length - 1) / kChunkBytes != chunk) return {};
    if (range->slots[chunk] == kNoSlot && !fill(*range, chunk)) return {};
    ++range->transfers;
    return {.range = range.get(), .slot = static_cast<uint16_t>(range->slots[chunk])};
  }
  return {};
}

void RingMemory::leave(Range& range) {
  if (--range.transfers > 0 || retiring_.empty()) return;
  const auto at = std::ranges::find(retiring_, &range, &std::unique_ptr<Range>::get);
  if (at != retiring_.end() && empty_slots(range)) retiring_.erase(at);
}

bool RingMemory::fill(Range& range, size_t chunk) {
  if (range.refused) return false;
  auto slot = fill_slot(range, chunk);
  if (!slot) {
    range.refused = true;
    log_refusal(range.memory->bytes.size(), slot.error());
    return false;
  }
  range.slots[chunk] = *slot;
  return true;
}

Result<int> RingMemory::fill_slot(Range& range, size_t chunk) {
  if (!has_table_) TRY(make_table());
  size_t slot = 0;
  while (slot < kSlots && slots_.test(slot)) ++slot;
  if (slot == kSlots) {
    return fail(ErrorKind::kResource, "an io_uring takes no more than {} GiB", kSlots);
  }
  const auto whole = range.memory->bytes;
  const auto bytes =
      whole.subspan(chunk * kChunkBytes, std::min(kChunkBytes, whole.size() - chunk * kChunkBytes));
  const iovec iov{.iov_base = bytes.data(), .iov_len = bytes.size()};
  const __u64 no_tag = 0;
  const int result =
      io_uring_register_buffers_update_tag(&ring_, static_cast<unsigned>(slot), &iov, &no_tag, 1);
  if (result < 0) return refusal(-result);
  slots_.set(slot);
  RHEA_TRACE(kUtil, "ring_memory_pin slot={} address={:#x} size={:#x}", slot,
             reinterpret_cast<uintptr_t>(bytes.data()), bytes.size());
  return static_cast<int>(slot);
}

/// Of empty slots. Not by io_uring_register_buffers_sparse(), which needs Linux 5.19: since 5.13 a
/// buffer at null is an empty slot.
Result<void> RingMemory::make_table() {
  const std::vector<iovec> none(kSlots);
  const int result = io_uring_register_buffers(&ring_, none.data(), kSlots);
  if (result < 0) return refusal(-result);
  has_table_ = true;
  return ok();
}

/// False if the kernel has no memory for it now: the range stays, and its keeper with it, until the
/// next change or the ring's end.
bool RingMemory::empty_slots(Range& range) {
  const iovec none{};
  const __u64 no_tag = 0;
  for (int& slot : range.slots) {
    if (slot == kNoSlot) continue;
    const auto number = static_cast<unsigned>(slot);
    const int result = io_uring_register_buffers_update_tag(&ring_, number, &none, &no_tag, 1);
    if (result < 0) {
      RHEA_LOG(kUtil, kWarn, "memory stays pinned: io_uring_register: errno {}", -result);
      return false;
    }
    RHEA_TRACE(kUtil, "ring_memory_unpin slot={}", number);
    slots_.reset(number);
    slot = kNoSlot;
  }
  return true;
}

}  // namespace rhea::internal
