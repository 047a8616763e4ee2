#include "vmm/block_properties.h"

#include <bit>
#include <utility>

namespace rhea::vmm {
namespace {

Result<void> take_block_size(OptionReader& options, std::string_view key, uint32_t& size) {
  constexpr uint64_t kLeast = 512, kMost = 32768;
  const auto given = TRY(options.take_size(key));
  if (!given) return ok();
  if (*given < kLeast || *given > kMost) {
    return fail(ErrorKind::kInvalidArgument,
                "Property .{} doesn't take value {} (minimum: {}, maximum: {})", key, *given,
                kLeast, kMost);
  }
  if (!std::has_single_bit(*given)) {
    return fail(ErrorKind::kInvalidArgument,
                "Property .{} doesn't take value '{}', it's not a power of 2", key, *given);
  }
  size = static_cast<uint32_t>(*given);
  return ok();
}

}  // namespace

Result<BlockGeometry> take_block_geometry(OptionReader& options) {
  BlockGeometry geometry;
  TRY(take_block_size(options, "logical_block_size", geometry.logical_block_size));
  geometry.physical_block_size = geometry.logical_block_size;
  TRY(take_block_size(options, "physical_block_size", geometry.physical_block_size));
  if (geometry.logical_block_size > geometry.physical_block_size) {
    return fail(ErrorKind::kInvalidArgument,
                "logical_block_size > physical_block_size not supported");
  }
  constexpr uint64_t kMost = uint64_t{1} << 31;
  for (const auto& [key, value] : {std::pair{"min_io_size", &geometry.min_io_size},
                                   std::pair{"opt_io_size", &geometry.opt_io_size}}) {
    const uint64_t size = TRY(options.take_size(key)).value_or(0);
    if (size > kMost || size % geometry.logical_block_size != 0) {
      return fail(ErrorKind::kInvalidArgument, "{} must be a multiple of logical_block_size", key);
    }
    *value = static_cast<uint32_t>(size);
  }
  return geometry;
}

Result<void> set_text(OptionReader& options, std::string_view key, size_t most,
                      std::string& value) {
  const auto given = TRY(options.take_string(key));
  if (!given) return ok();
  if (given->size() > most) {
    return fail(ErrorKind::kInvalidArgument, "Property '{}' is longer than {} bytes", key, most);
  }
  value = *given;
  return ok();
}

}  // namespace rhea::vmm
