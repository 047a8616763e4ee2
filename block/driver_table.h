// The drivers there are, by name.
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "block/driver.h"

namespace rhea::block {

struct DriverRow {
  std::string_view name;
  std::unique_ptr<BlockDriver> (*make)();
};

/// All of them, in alphabetical order.
std::span<const DriverRow> driver_table();
/// Null for a name that no driver has.
std::unique_ptr<BlockDriver> make_driver(std::string_view name);

}  // namespace rhea::block
