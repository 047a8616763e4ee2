// The tests' own drivers, by name.
#pragma once

#include <array>
#include <memory>

#include "block/driver_table.h"
#include "tests/unit/block/test_disk.h"
#include "tests/unit/block/test_filter.h"

namespace rhea::block::test {

inline constexpr std::array kTestDrivers{
    DriverRow{TestDisk::kName, [] { return std::unique_ptr<BlockDriver>(new TestDisk); }},
    DriverRow{TestFilter::kName, [] { return std::unique_ptr<BlockDriver>(new TestFilter); }},
};

}  // namespace rhea::block::test
