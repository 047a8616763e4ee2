// RamBlock: a piece of host memory that a guest sees as RAM or ROM.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "memory/dirty_bitmap.h"
#include "util/error.h"
#include "util/fd.h"

namespace rhea::memory {

/// What a RamBlock is made of.
struct RamBlockConfig {
  enum class Type : uint8_t {
    kAnonymous,  ///< private memory of this process
    kMemfd,      ///< a memfd, of hugetlb pages if asked
    kFile,       ///< a file, or an unlinked temporary file if `path` is a directory
  };
  Type type = Type::kAnonymous;
  std::string name;                 ///< names the block in messages and in a migration stream
  uint64_t size_bytes = 0;          ///< a multiple of the page size of what it is made of
  std::string path;                 ///< kFile
  bool share = false;               ///< stores reach the memfd or the file; not with kAnonymous
  bool prealloc = false;            ///< all of it must be there when create() returns
  bool hugetlb = false;             ///< kMemfd
  uint64_t hugetlb_size_bytes = 0;  ///< 0: the host's default huge page
};

/// Owns: the mapping, with an inaccessible page on both sides (an overrun in the host faults
/// instead of reaching other memory), and the descriptor behind it.
///
/// Thread: immutable apart from the guest's bytes, which anybody may change at any time, and the
/// dirty bitmap, which is atomic. Shared: the region tree and every FlatView that shows it hold it.
/// Errors: create() names the block, the size and the reason.
class RamBlock : public std::enable_shared_from_this<RamBlock> {
 public:
  static Result<std::shared_ptr<RamBlock>> create(const RamBlockConfig& config);
  ~RamBlock();
  RamBlock(const RamBlock&) = delete;
  RamBlock& operator=(const RamBlock&) = delete;

  const std::string& name() const noexcept { return name_; }
  uint64_t size_bytes() const noexcept { return size_bytes_; }
  std::byte* host() const noexcept { return host_; }
  /// All of it. The guest may change any byte meanwhile: read once, validate the copy.
  std::span<std::byte> bytes() const noexcept { return {host_, size_bytes_}; }

  /// The memfd or file, -1 for anonymous memory; byte 0 of the block is its byte fd_offset().
  int fd() const noexcept { return fd_.get(); }
  uint64_t fd_offset() const noexcept { return 0; }
  /// Whether another process that maps fd() sees this block's stores.
  bool shared() const noexcept { return shared_; }
  /// The unit in which the host backs it: 4 KiB, or the huge page.
  uint64_t page_bytes() const noexcept { return page_bytes_; }
  /// Whether all of it was there from the start. It stays so: nothing gives pages back to the host.
  bool preallocated() const noexcept { return preallocated_; }

  DirtyBitmap& dirty() noexcept { return dirty_; }

 private:
  struct Backing {
    Fd fd;
    uint64_t page_bytes = 0;
  };
  struct Mapping {
    std::byte* reserved = nullptr;
    uint64_t reserved_bytes = 0;
    std::byte* host = nullptr;
  };

  static Result<Backing> open_backing(const RamBlockConfig& config);
  static Result<Backing> open_memfd(const RamBlockConfig& config);
  static Result<Backing> open_file(const RamBlockConfig& config);
  static Result<Mapping> map(const RamBlockConfig& config, const Backing& backing);
  Result<void> preallocate() const;

  RamBlock(const RamBlockConfig& config, Backing backing, const Mapping& mapping);

  const std::string name_;
  const uint64_t size_bytes_;
  const bool shared_;
  const Fd fd_;
  const uint64_t page_bytes_;
  const bool preallocated_;
  const Mapping mapping_;
  std::byte* const host_;
  DirtyBitmap dirty_;
};

}  // namespace rhea::memory
