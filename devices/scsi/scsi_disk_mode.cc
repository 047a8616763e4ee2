// MODE SENSE and MODE SELECT. [SPC-4 mode parameters, SBC-3]
#include <algorithm>
#include <array>
#include <utility>

#include "devices/scsi/scsi_disk.h"

namespace rhea::devices {
namespace {

constexpr uint8_t kDisableDescriptors = 0x08;  // DBD
constexpr uint8_t kLongAccepted = 0x10;        // LLBAA
constexpr uint8_t kPageFormat = 0x10;          // PF
constexpr uint8_t kPageCode = 0x3f, kAllPages = 0x3f;
constexpr uint8_t kAllSubpages = 0xff;
constexpr uint8_t kPageFlags = 0xc0;  // PS, SPF
constexpr size_t kPageHeader = 2;
constexpr size_t kShortDescriptor = 8, kLongDescriptor = 16;
constexpr uint8_t kLongLba = 0x01;

/// No initiator has more to say to the pages that units have.
constexpr size_t kMostModeList = 256;

enum class PageControl : uint8_t { kCurrent, kChangeable, kDefault, kSaved };

/// The mode parameter header of the 6-byte commands and of the others. [SPC-4]
struct Header {
  uint8_t size;
  uint8_t device_specific_at;
  uint8_t descriptors_at;  // a byte in one, two in the other
};
constexpr Header kShortHeader{4, 2, 3}, kLongHeader{8, 3, 6};

const Header& header_of(const ScsiCdb& cdb) { return cdb.size() == 6 ? kShortHeader : kLongHeader; }

uint64_t be(std::span<const uint8_t> bytes) {
  uint64_t value = 0;
  for (const uint8_t byte : bytes) value = value << 8 | byte;
  return value;
}

}  // namespace

ScsiOutcome ScsiDisk::mode_sense(Co&, ScsiRequest& request) {
  const ScsiCdb cdb(request.cdb);
  const Header& header = header_of(cdb);
  ScsiReply reply;
  reply.put_zeros(header.size);
  reply.set8(header.device_specific_at, device_specific());
  if (has_block_descriptor() && !cdb.has(1, kDisableDescriptors)) {
    const bool is_long = cdb.size() != 6 && cdb.has(1, kLongAccepted);
    put_block_descriptor(reply, is_long);
    if (is_long) reply.set8(4, kLongLba);
    reply.set8(header.size - 1U, reply.size() - header.size);  // of two bytes, the low one
  }
  if (const auto reason = put_mode_pages(cdb, reply)) return ScsiOutcome::check(*reason);
  if (header.size == kShortHeader.size) {
    reply.set8(0, reply.size() - 1);
  } else {
    reply.set16(0, reply.size() - 2);
  }
  return answer(request, reply, cdb.list_length());
}

void ScsiDisk::put_block_descriptor(ScsiReply& reply, bool is_long) const {
  if (is_long) {
    reply.put64(blocks());
    reply.put_zeros(4);
  } else {
    reply.put32(std::min<uint64_t>(blocks(), UINT32_MAX));
  }
  reply.put32(block_size());
}

std::optional<ScsiSense> ScsiDisk::put_mode_pages(const ScsiCdb& cdb, ScsiReply& reply) const {
  const uint8_t wanted = cdb[2] & kPageCode;
  const auto control = static_cast<PageControl>(cdb[2] >> 6);
  if (control == PageControl::kSaved) return sense::kSavingNotSupported;
  if (cdb[3] != 0 && cdb[3] != kAllSubpages) return sense::kInvalidField;
  bool found = false;
  for (const ModePage& page : mode_pages()) {
    if (wanted != kAllPages && wanted != page.code) continue;
    found = true;
    const auto bytes = reply.room(page.size);
    if (control == PageControl::kCurrent) page.put_current(*this, bytes);
    if (control == PageControl::kDefault) page.put_default(*this, bytes);
    if (control == PageControl::kChangeable && page.put_changeable != nullptr) {
      page.put_changeable(bytes);
    }
    bytes[0] = page.code;
    bytes[1] = static_cast<uint8_t>(page.size - kPageHeader);
  }
  return found ? std::nullopt : std::optional(sense::kInvalidField);
}

ScsiOutcome ScsiDisk::mode_select(Co& co, ScsiRequest& request) {
  const ScsiCdb cdb(request.cdb);
  const uint32_t length = cdb.list_length();
  if (!cdb.has(1, kPageFormat)) return ScsiOutcome::check(sense::kInvalidField);
  if (length > request.data_out.size) return overrun();
  if (length == 0) return ScsiOutcome::good(0);
  std::array<uint8_t, kMostModeList> copy{};
  if (length > copy.size()) return ScsiOutcome::check(sense::kParameterListLength);
  const auto list = std::span(copy).first(length);
  request.data_out.copy_to(0, std::as_writable_bytes(list));
  std::span<const uint8_t> pages;
  if (const auto reason = check_mode_list(cdb, list, pages)) return ScsiOutcome::check(*reason);
  // All of it is good, so nothing is left half changed.
  for (; !pages.empty(); pages = pages.subspan(kPageHeader + pages[1])) {
    const auto page = pages.first(kPageHeader + pages[1]);
    if (const auto bad = mode_selected(co, request, page)) return *bad;
  }
  return ScsiOutcome::good(length);
}

std::optional<ScsiOutcome> ScsiDisk::mode_selected(Co&, ScsiRequest&, std::span<const uint8_t>) {
  return std::nullopt;
}

/// `pages`: what is behind header and descriptor, each page whole and good.
std::optional<ScsiSense> ScsiDisk::check_mode_list(const ScsiCdb& cdb,
                                                   std::span<const uint8_t> list,
                                                   std::span<const uint8_t>& pages) const {
  const Header& header = header_of(cdb);
  if (list.size() < header.size) return sense::kParameterListLength;
  const auto at = list.subspan(header.descriptors_at, header.size - header.descriptors_at);
  const uint64_t descriptors = be(at);
  if (descriptors > list.size() - header.size) return sense::kParameterListLength;
  const bool is_long = header.size == kLongHeader.size && (list[4] & kLongLba) != 0;
  if (descriptors != 0) {
    const size_t known = is_long ? kLongDescriptor : kShortDescriptor;
    if (!has_block_descriptor() || descriptors != known) return sense::kInvalidParameter;
    const auto bytes = list.subspan(header.size, known);
    if (const auto reason = check_block_descriptor(bytes)) return reason;
  }
  pages = list.subspan(header.size + descriptors);
  for (auto rest = pages; !rest.empty();) {
    if (rest.size() < kPageHeader) return sense::kParameterListLength;
    if ((rest[0] & kPageFlags) != 0) return sense::kInvalidParameter;
    const size_t size = kPageHeader + rest[1];
    if (size > rest.size()) return sense::kParameterListLength;
    if (const auto reason = check_mode_page(rest.first(size))) return reason;
    rest = rest.subspan(size);
  }
  return std::nullopt;
}

/// Neither the number nor the size of the blocks can be changed; no number is no change.
std::optional<ScsiSense> ScsiDisk::check_block_descriptor(
    std::span<const uint8_t> descriptor) const {
  const bool is_long = descriptor.size() == kLongDescriptor;
  const uint64_t count = be(descriptor.first(is_long ? 8 : 4));
  const uint64_t now = is_long ? blocks() : std::min<uint64_t>(blocks(), UINT32_MAX);
  if (count != 0 && count != now) return sense::kInvalidParameter;
  if (be(descriptor.last(4)) != block_size()) return sense::kInvalidParameter;
  return std::nullopt;
}

/// Only what can be changed differs from what is.
std::optional<ScsiSense> ScsiDisk::check_mode_page(std::span<const uint8_t> page) const {
  const auto known = mode_pages();
  const auto row = std::ranges::find(known, page[0], &ModePage::code);
  if (row == known.end() || row->size != page.size()) return sense::kInvalidParameter;
  std::array<uint8_t, kMostModePage> current{}, changeable{};
  row->put_current(*this, std::span(current).first(row->size));
  if (row->put_changeable != nullptr) {
    row->put_changeable(std::span(changeable).first(row->size));
  }
  for (size_t i = kPageHeader; i < page.size(); ++i) {
    if (((page[i] ^ current[i]) & ~changeable[i] & 0xff) != 0) return sense::kInvalidParameter;
  }
  return std::nullopt;
}

}  // namespace rhea::devices
