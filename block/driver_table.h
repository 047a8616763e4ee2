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

/// All of them, in alphabetical order, but the tests' own.
std::span<const DriverRow> driver_table();
/// Null for a name that no driver has.
std::unique_ptr<BlockDriver> make_driver(std::string_view name);

/// More drivers, of tests. Main, while nothing is being opened.
void set_extra_drivers(std::span<const DriverRow> rows) noexcept;

}  // namespace rhea::block
