// ArrivingRam: guest RAM that pages are received into.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "memory/ram_block.h"
#include "migration/multifd_packet.h"
#include "migration/written_pages.h"
#include "util/endian.h"
#include "util/error.h"

namespace rhea::migration {

/// What pages are to arrive in, with what the host says of its content.
std::vector<RamView> arriving_views(const std::vector<std::shared_ptr<memory::RamBlock>>& blocks);

/// Has the host make pages before they are touched, many in one call, instead of at a fault each.
/// More than that: a host that has no memory for them says so then, where a store, and in a file on
/// a tmpfs even a look, would be a SIGBUS. Linux before 5.14 can not be asked, and there it is one.
///
/// A page of zeros is not written where the memory is zero already, and not even looked at where
/// nothing was stored: memory that nobody has touched stays so.
/// Thread: any; a page is received by one of them in a round, and rounds are ordered.
/// Errors: kResource, of a host that has no memory; how much was wanted.
class ArrivingRam {
 public:
  explicit ArrivingRam(std::vector<RamView> ram) : ram_(std::move(ram)), written_(ram_) {}

  std::span<const RamView> views() const noexcept { return ram_; }
  std::byte* page(uint32_t block, uint32_t number) const {
    return ram_[block].bytes.data() + size_t{number} * kPageBytes;
  }

  /// Before neighbours are stored to.
  Result<void> make_room(uint32_t block, uint32_t first, uint32_t count);
  /// These are all zero from now on.
  Result<void> clear(uint32_t block, std::span<const le32> pages);

 private:
  bool all_written(uint32_t block, uint32_t first, uint32_t count) const;
  Result<void> clear_run(uint32_t block, uint32_t first, uint32_t count);

  const std::vector<RamView> ram_;
  WrittenPages written_;
};

}  // namespace rhea::migration
