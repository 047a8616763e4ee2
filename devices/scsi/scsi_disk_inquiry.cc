// INQUIRY and vital product data. [SPC-4 6.6]
#include <algorithm>
#include <string_view>
#include <utility>

#include "devices/scsi/scsi_disk.h"

namespace rhea::devices {
namespace {

constexpr uint8_t kVitalProductData = 0x01;  // EVPD
constexpr uint8_t kRemovableMedium = 0x80;
constexpr uint8_t kVersionSpc4 = 0x06;
constexpr uint8_t kHierarchical = 0x10, kResponseFormat = 0x02;
constexpr uint8_t kCommandQueuing = 0x02;
constexpr uint16_t kSam5 = 0x00a0, kSpc4 = 0x0460;
constexpr size_t kVersionDescriptorsAt = 58, kStandardSize = 74;

constexpr size_t kMostSerial = 36, kMostDesignator = 247;

/// Whom a designator names, in which form. [SPC-4 Device Identification]
constexpr uint8_t kBinary = 1, kAscii = 2;
constexpr uint8_t kVendorSpecific = 0, kNaa = 3;

void put_chars(ScsiReply& reply, std::string_view text, size_t most) {
  reply.put_text(text, std::min(text.size(), most));
}

}  // namespace

ScsiOutcome ScsiDisk::inquiry(Co&, ScsiRequest& request) {
  const ScsiCdb cdb(request.cdb);
  ScsiReply reply;
  if (cdb.has(1, kVitalProductData)) {
    if (const auto reason = put_vpd(cdb[2], reply)) return ScsiOutcome::check(*reason);
  } else {
    if (cdb[2] != 0) return ScsiOutcome::check(sense::kInvalidField);
    put_standard_inquiry(reply);
  }
  return answer(request, reply, cdb.be(3, 2));
}

void ScsiDisk::put_standard_inquiry(ScsiReply& reply) const {
  reply.put8(kind_.peripheral_type);
  reply.put8(kind_.removable ? kRemovableMedium : 0);
  reply.put8(kVersionSpc4);
  reply.put8(kHierarchical | kResponseFormat);
  reply.put8(kStandardSize - 5);
  reply.put_zeros(2);
  reply.put8(kCommandQueuing);
  reply.put_text(config_.vendor, 8);
  reply.put_text(config_.product, 16);
  reply.put_text(config_.revision, 4);
  reply.put_zeros(kVersionDescriptorsAt - reply.size());
  for (const uint16_t standard : {kSam5, kSpc4, kind_.command_standard}) reply.put16(standard);
  reply.put_zeros(kStandardSize - reply.size());
}

std::optional<ScsiSense> ScsiDisk::put_vpd(uint8_t code, ScsiReply& reply) const {
  const auto pages = vpd_pages();
  const auto page = std::ranges::find(pages, code, &VpdPage::code);
  if (page == pages.end() || !page->is_there(*this)) return sense::kInvalidField;
  reply.put8(kind_.peripheral_type);
  reply.put8(code);
  reply.put16(0);
  page->put(*this, reply);
  reply.set16(2, reply.size() - 4);
  return std::nullopt;
}

void ScsiDisk::put_page_list(const ScsiDisk& disk, ScsiReply& reply) {
  for (const VpdPage& page : disk.vpd_pages()) {
    if (page.is_there(disk)) reply.put8(page.code);
  }
}

void ScsiDisk::put_unit_serial(const ScsiDisk& disk, ScsiReply& reply) {
  put_chars(reply, disk.config_.serial, kMostSerial);
}

void ScsiDisk::put_identification(const ScsiDisk& disk, ScsiReply& reply) {
  const ScsiDiskConfig& config = disk.config_;
  // A disk that was given no name of its own has none here: one that is the same for all disks
  // would make a guest take them for paths to one.
  const std::string& id = config.device_id.empty() ? config.serial : config.device_id;
  if (!id.empty()) {
    reply.put8(kAscii);
    reply.put8(kVendorSpecific);
    reply.put8(0);
    reply.put8(std::min(id.size(), kMostDesignator));
    put_chars(reply, id, kMostDesignator);
  }
  if (config.wwn) {
    reply.put8(kBinary);
    reply.put8(kNaa);
    reply.put16(sizeof *config.wwn);
    reply.put64(*config.wwn);
  }
}

}  // namespace rhea::devices
