#include "vmm/migration/settings.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <string>

namespace rhea::vmm {
namespace {

using Capabilities = MigrationCapabilities;
using Parameters = MigrationParameters;

constexpr std::array kCapabilities{
    CapabilityRow{"auto-converge", &Capabilities::auto_converge},
    CapabilityRow{"events", &Capabilities::events},
    CapabilityRow{"return-path", &Capabilities::return_path},
    CapabilityRow{"pause-before-switchover", &Capabilities::pause_before_switchover},
    CapabilityRow{"multifd", &Capabilities::multifd},
    CapabilityRow{"late-block-activate", &Capabilities::late_block_activate},
    CapabilityRow{"validate-uuid", &Capabilities::validate_uuid},
};

constexpr uint64_t kMaxRate = std::numeric_limits<int64_t>::max();
constexpr uint64_t kMaxDowntimeMs = 2000 * 1000;

constexpr std::array kParameters{
    ParameterRow{"throttle-trigger-threshold", &Parameters::throttle_trigger_threshold, 1, 100,
                 "expects an integer in the range of 1 to 100"},
    ParameterRow{"cpu-throttle-initial", &Parameters::cpu_throttle_initial, 1, 99,
                 "expects an integer in the range of 1 to 99"},
    ParameterRow{"cpu-throttle-increment", &Parameters::cpu_throttle_increment, 1, 99,
                 "expects an integer in the range of 1 to 99"},
    ParameterRow{"max-bandwidth", &Parameters::max_bandwidth, 0, kMaxRate,
                 "expects an integer in the range of 0 to 9223372036854775807 bytes/second"},
    ParameterRow{"downtime-limit", &Parameters::downtime_limit, 0, kMaxDowntimeMs,
                 "expects an integer in the range of 0 to (2000 * 1000) ms"},
    ParameterRow{"multifd-channels", &Parameters::multifd_channels, 1, 255,
                 "expects a value between 1 and 255"},
    ParameterRow{"max-cpu-throttle", &Parameters::max_cpu_throttle, 1, 99,
                 "expects an integer in the range of cpu_throttle_initial to 99"},
    ParameterRow{"multifd-zstd-level", &Parameters::multifd_zstd_level, 0, 20,
                 "expects a value between 0 and 20"},
};

/// As QEMU's messages write a name.
std::string underscored(std::string_view name) {
  std::string text(name);
  std::ranges::replace(text, '-', '_');
  return text;
}

}  // namespace

std::span<const CapabilityRow> capability_rows() { return kCapabilities; }
std::span<const ParameterRow> parameter_rows() { return kParameters; }

Result<void> check(const MigrationParameters& parameters) {
  for (const ParameterRow& row : kParameters) {
    const uint64_t value = parameters.*row.value;
    const bool in_order =
        row.value != &Parameters::max_cpu_throttle || value >= parameters.cpu_throttle_initial;
    if (value >= row.min && value <= row.max && in_order) continue;
    return fail(ErrorKind::kInvalidArgument, "Parameter '{}' {}", underscored(row.name),
                row.complaint);
  }
  return ok();
}

migration::SourceOptions MigrationSettings::source() const {
  migration::SourceOptions options;
  options.downtime_limit = std::chrono::milliseconds(parameters.downtime_limit);
  options.validate_uuid = capabilities.validate_uuid;
  options.pause_before_switchover = capabilities.pause_before_switchover;
  options.auto_converge =
      capabilities.auto_converge ? migration::AutoConverge::kYes : migration::AutoConverge::kNo;
  options.throttle = {
      .trigger_threshold = static_cast<unsigned>(parameters.throttle_trigger_threshold),
      .initial = static_cast<unsigned>(parameters.cpu_throttle_initial),
      .increment = static_cast<unsigned>(parameters.cpu_throttle_increment),
      .max = static_cast<unsigned>(parameters.max_cpu_throttle)};
  if (capabilities.multifd) {
    options.ram.channels = static_cast<unsigned>(parameters.multifd_channels);
    if (parameters.multifd_zstd) {
      options.ram.compression = migration::PacketOptions::Compression::kZstd;
    }
  }
  options.ram.zstd_level = static_cast<int>(parameters.multifd_zstd_level);
  options.ram.checksum =
      parameters.x_page_checksum ? migration::PageChecksum::kYes : migration::PageChecksum::kNo;
  return options;
}

migration::TargetOptions MigrationSettings::target() const {
  return {.uuid = capabilities.validate_uuid ? migration::CompareUuid::kYes
                                             : migration::CompareUuid::kNo,
          .late_block_activate = capabilities.late_block_activate};
}

}  // namespace rhea::vmm
