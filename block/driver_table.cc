#include "block/driver_table.h"

#include <algorithm>
#include <array>

#include "block/drivers/blkdebug.h"
#include "block/drivers/file.h"
#include "block/drivers/first_block_guard.h"
#include "block/drivers/null_co.h"
#include "block/drivers/raw.h"
#include "block/drivers/throttle.h"

namespace rhea::block {
namespace {

template <class D>
std::unique_ptr<BlockDriver> make() {
  return std::make_unique<D>();
}

std::unique_ptr<BlockDriver> make_host_device() {
  return std::make_unique<File>(internal::HostFileKind::kBlockDevice);
}

constexpr std::array kDrivers{
    DriverRow{Blkdebug::kName, make<Blkdebug>},
    DriverRow{File::kName, make<File>},
    DriverRow{FirstBlockGuard::kName, make<FirstBlockGuard>},
    DriverRow{File::kHostDeviceName, make_host_device},
    DriverRow{NullCo::kName, make<NullCo>},
    DriverRow{Raw::kName, make<Raw>},
    DriverRow{Throttle::kName, make<Throttle>},
};

std::span<const DriverRow> extra_drivers;

}  // namespace

void set_extra_drivers(std::span<const DriverRow> rows) noexcept { extra_drivers = rows; }

std::span<const DriverRow> driver_table() { return kDrivers; }

std::unique_ptr<BlockDriver> make_driver(std::string_view name) {
  for (const std::span<const DriverRow> rows : {driver_table(), extra_drivers}) {
    const auto row = std::ranges::find(rows, name, &DriverRow::name);
    if (row != rows.end()) return row->make();
  }
  return nullptr;
}

}  // namespace rhea::block
