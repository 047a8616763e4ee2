#include "devices/scsi/scsi_target.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>
#include <utility>
#include <vector>

namespace rhea::devices::scsi_target {
namespace {

uint32_t big_endian(std::span<const uint8_t> bytes) {
  uint32_t value = 0;
  for (const uint8_t byte : bytes) value = value << 8 | byte;
  return value;
}

uint32_t allocation_length(const ScsiRequest& request) {
  const std::span cdb(request.cdb);
  switch (opcode_of(request)) {
    case Opcode::kRequestSense:
      return cdb[4];
    case Opcode::kInquiry:
      return big_endian(cdb.subspan(3, 2));
    case Opcode::kReportLuns:
      return big_endian(cdb.subspan(6, 4));
    case Opcode::kTestUnitReady:
    case Opcode::kGetConfiguration:
    case Opcode::kGetEventStatus:
      break;
  }
  return 0;
}

constexpr ScsiOutcome kOverrun{.end = ScsiOutcome::End::kOverrun};

/// As much of `data` as the initiator allows for, if it has the memory.
ScsiOutcome give(ScsiRequest& request, std::span<const std::byte> data) {
  const size_t size = std::min<size_t>(data.size(), allocation_length(request));
  if (size > request.data_in.size) return kOverrun;
  request.data_in.copy_from(0, data.first(size));
  return ScsiOutcome::good(size);
}

/// Header, and the block of an error. [SPC-4 4.5.2]
constexpr size_t kDescriptorSenseSize = 8 + 12;
bool wants_descriptors(const ScsiRequest& request) {
  constexpr uint8_t kDescriptorFormat = 1;
  return (request.cdb[1] & kDescriptorFormat) != 0;
}

/// What a REPORT LUNS lists. [SPC-4 table 274]
enum class SelectReport : uint8_t { kUnits = 0, kWellKnown = 1, kAll = 2 };
bool is_known(SelectReport select) { return select <= SelectReport::kAll; }
SelectReport select_report(const ScsiRequest& request) {
  return static_cast<SelectReport>(request.cdb[2]);
}

/// A LUN as a single level LUN structure, in eight bytes. [SAM-5 4.7.6]
void append_lun(std::vector<std::byte>& list, uint16_t lun) {
  constexpr uint16_t kFlatSpace = 0x4000, kPeripherals = 256, kWellKnownMethod = 0xc000;
  // The flat space method is for what the peripheral device method can not say.
  if (lun >= kPeripherals && lun < kWellKnownMethod) lun |= kFlatSpace;
  list.push_back(static_cast<std::byte>(lun >> 8));
  list.push_back(static_cast<std::byte>(lun & 0xff));
  list.resize(list.size() + 6);
}

/// Standard INQUIRY data of what has no more to say; `peripheral` is the first byte.
/// [SPC-4 6.4.2]
ScsiOutcome standard_inquiry(ScsiRequest& request, uint8_t peripheral) {
  constexpr std::array<uint8_t, 8> kHead{0,      0,
                                         6,                 // SPC-4, like the units
                                         0x12,              // LUNs may be large; the data's format
                                         36 - 5, 0, 0, 2};  // several commands at once
  constexpr std::string_view kNames =                       // vendor, product, revision
      "RHEA    "
      "TARGET          "
      "1.0 ";
  std::array<std::byte, 36> data{};
  static_assert(kHead.size() + kNames.size() == data.size());
  std::ranges::copy(std::as_bytes(std::span(kHead)), data.begin());
  std::ranges::copy(std::as_bytes(std::span(kNames)), data.begin() + kHead.size());
  data[0] = std::byte{peripheral};
  return give(request, data);
}

ScsiOutcome inquiry(ScsiRequest& request, uint8_t peripheral) {
  constexpr uint8_t kEvpd = 1;
  const bool evpd = (request.cdb[1] & kEvpd) != 0;
  if (request.cdb[2] != 0) return ScsiOutcome::check(sense::kInvalidField);
  if (!evpd) return standard_inquiry(request, peripheral);
  // The page that lists the pages: itself. [SPC-4 7.8.13]
  const std::array data{std::byte{peripheral}, std::byte{0}, std::byte{0}, std::byte{1},
                        std::byte{0}};
  return give(request, data);
}

}  // namespace

Opcode opcode_of(const ScsiRequest& request) { return static_cast<Opcode>(request.cdb[0]); }

bool is_told_attention(Opcode opcode) {
  switch (opcode) {
    case Opcode::kInquiry:
    case Opcode::kReportLuns:
    case Opcode::kRequestSense:
    case Opcode::kGetConfiguration:
    case Opcode::kGetEventStatus:
      return false;
    case Opcode::kTestUnitReady:
      break;
  }
  return true;
}

std::optional<ScsiOutcome> refuse(const ScsiRequest& request) {
  if (opcode_of(request) == Opcode::kReportLuns) {
    constexpr uint32_t kLeast = 16;  // [SPC-4 6.33]
    if (allocation_length(request) >= kLeast && is_known(select_report(request))) return {};
    return ScsiOutcome::check(sense::kInvalidField);
  }
  // What is told is told no more: only to one who has room for it.
  const size_t size = wants_descriptors(request) ? kDescriptorSenseSize : kFixedSenseSize;
  if (std::min<size_t>(size, allocation_length(request)) > request.data_in.size) return kOverrun;
  return {};
}

ScsiOutcome report_luns(ScsiRequest& request, std::span<const uint16_t> luns) {
  constexpr size_t kHeader = 8;
  const SelectReport select = select_report(request);
  std::vector<std::byte> list(kHeader);
  list.reserve(kHeader + 8 * (luns.size() + 1));
  if (select != SelectReport::kWellKnown) {
    for (const uint16_t lun : luns) append_lun(list, lun);
  }
  if (select != SelectReport::kUnits) append_lun(list, kReportLunsUnit);
  const size_t bytes = list.size() - kHeader;
  for (unsigned i = 0; i < 4; ++i) list[i] = static_cast<std::byte>(bytes >> (24 - 8 * i));
  return give(request, list);
}

ScsiOutcome request_sense(ScsiRequest& request, const ScsiSense& sense) {
  std::array<std::byte, kDescriptorSenseSize> data;
  const size_t size = wants_descriptors(request) ? write_descriptor_sense(sense, data)
                                                 : write_fixed_sense(sense, data);
  return give(request, std::span(data).first(size));
}

ScsiOutcome at_no_unit(ScsiRequest& request) {
  constexpr uint8_t kNothing = 0x7f;  // no unit can be here, of no type
  if (opcode_of(request) == Opcode::kInquiry) return inquiry(request, kNothing);
  return ScsiOutcome::check(sense::kLunNotSupported);
}

ScsiOutcome at_well_known_unit(ScsiRequest& request) {
  constexpr uint8_t kWellKnown = 0x1e;
  switch (opcode_of(request)) {
    case Opcode::kInquiry:
      return inquiry(request, kWellKnown);
    case Opcode::kTestUnitReady:
      return ScsiOutcome::good(0);
    case Opcode::kRequestSense:
    case Opcode::kReportLuns:
    case Opcode::kGetConfiguration:
    case Opcode::kGetEventStatus:
      break;
  }
  return ScsiOutcome::check(sense::kInvalidOpcode);
}

}  // namespace rhea::devices::scsi_target
