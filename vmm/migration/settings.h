// MigrationSettings: what a user says about how the machine is to be moved.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "migration/source.h"
#include "migration/target.h"
#include "util/error.h"

namespace rhea::vmm {

/// On or off; the names are QEMU's.
struct MigrationCapabilities {
  bool events = true;  ///< unlike QEMU: who does not want them need not listen
  bool return_path = true;
  bool multifd = false;
  bool auto_converge = false;
  bool pause_before_switchover = false;
  bool late_block_activate = false;
  bool validate_uuid = false;
};

struct CapabilityRow {
  std::string_view name;
  bool MigrationCapabilities::* value;
};
/// In the order in which QEMU lists them.
std::span<const CapabilityRow> capability_rows();

/// Units as QEMU's: bytes per second, milliseconds, per cent.
struct MigrationParameters {
  uint64_t cpu_throttle_initial = 20;
  uint64_t cpu_throttle_increment = 10;
  uint64_t max_cpu_throttle = 99;
  uint64_t throttle_trigger_threshold = 50;
  uint64_t max_bandwidth = uint64_t{128} << 20;  ///< 0: no limit
  uint64_t downtime_limit = 300;
  uint64_t multifd_channels = 2;
  uint64_t multifd_zstd_level = 1;
  bool multifd_zstd = false;     ///< multifd-compression
  bool x_page_checksum = false;  ///< pages carry a checksum; headers and states always do
};

struct ParameterRow {
  std::string_view name;
  uint64_t MigrationParameters::* value;
  uint64_t min, max;
  std::string_view complaint;  ///< what QEMU says behind "Parameter 'x' " if it is out of range
};
/// The numbers among them, in the order in which QEMU lists them.
std::span<const ParameterRow> parameter_rows();

/// Errors: kInvalidArgument, in QEMU's words.
Result<void> check(const MigrationParameters& parameters);

/// Thread: BQL.
struct MigrationSettings {
  MigrationCapabilities capabilities;
  MigrationParameters parameters;

  migration::SourceOptions source() const;
  migration::TargetOptions target() const;
};

}  // namespace rhea::vmm
