// What the rows of disks share: the options that say how a guest is to see a disk.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "util/error.h"
#include "util/option_reader.h"

namespace rhea::vmm {

/// Units: bytes.
struct BlockGeometry {
  uint32_t logical_block_size = 512;  ///< powers of two, 512 to 32768
  uint32_t physical_block_size = 512;
  uint32_t min_io_size = 0, opt_io_size = 0;  ///< multiples of the logical block
};

/// Takes logical_block_size=, physical_block_size=, min_io_size= and opt_io_size=.
/// Errors: texts are QEMU's.
Result<BlockGeometry> take_block_geometry(OptionReader& options);

/// Sets `value` if the option is given. Errors: it is longer than `most` bytes.
Result<void> set_text(OptionReader& options, std::string_view key, size_t most, std::string& value);

}  // namespace rhea::vmm
