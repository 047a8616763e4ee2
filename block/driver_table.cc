#include "block/driver_table.h"

#include <algorithm>
#include <array>

#include "block/drivers/null_co.h"

namespace rhea::block {
namespace {

template <class D>
std::unique_ptr<BlockDriver> make() {
  return std::make_unique<D>();
}

constexpr std::array kDrivers{
    DriverRow{NullCo::kName, make<NullCo>},
};

}  // namespace

std::span<const DriverRow> driver_table() { return kDrivers; }

std::unique_ptr<BlockDriver> make_driver(std::string_view name) {
  const auto row = std::ranges::find(kDrivers, name, &DriverRow::name);
  return row != kDrivers.end() ? row->make() : nullptr;
}

}  // namespace rhea::block
