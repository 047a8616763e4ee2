// first-block-guard: keeps a guest from giving its raw image another format.
#pragma once

#include <span>
#include <string_view>

#include "block/filter_driver.h"
#include "util/co_sync.h"

namespace rhea::block {

/// How much of an image's start tells its format. Units: bytes.
inline constexpr size_t kFormatProbeBytes = 512;

/// The image format that starts like `first`, or an empty name: then it is raw.
std::string_view recognise_format(std::span<const std::byte> first) noexcept;

/// Stands below a raw format that was guessed, not said. A guest could write the header of another
/// format, with the name of any of the host's files in it, and whoever opened the image next and
/// guessed would give it that file: such a write is refused.
///
/// Option: `file`.
class FirstBlockGuard final : public FilterDriver {
 public:
  static constexpr std::string_view kName = "first-block-guard";

  std::string_view name() const noexcept override { return kName; }
  Result<void> co_write(Co& co, uint64_t offset, IoVector memory, WriteFlags flags) override
      REQUIRES_SHARED(graph_lock);

 private:
  Result<void> check(Co& co, uint64_t offset, IoVector memory) REQUIRES_SHARED(graph_lock);

  CoMutex first_block_;  // a block that is written in parts is looked at as a whole
};

}  // namespace rhea::block
