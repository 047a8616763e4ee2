#include "migration/page_stream.h"

#include <bit>
#include <cstring>
#include <utility>

#include "migration/internal/buffer.h"
#include "migration/zero_page.h"
#include "util/check.h"
#include "util/crc32c.h"
#include "util/endian.h"

namespace rhea::migration {
namespace {

constexpr size_t kPage = kPageBytes;

// Of a frame's payload; the numbers of the normal pages follow, then those of the zero ones. The
// bytes of the normal pages come behind the frame, in this order.
struct WirePages {
  le32 block;
  le16 normal;
  le16 zero;
  le32 has_checksum;  // 0 or 1
  le32 checksum;      // CRC32C of the bytes behind the frame
};

bool is_zero(const std::byte* page) {
  return is_zero_page(std::span<const std::byte, kPage>(page, kPage));
}

// Neighbours become one part.
void append(std::vector<iovec>& parts, std::byte* page) {
  if (!parts.empty()) {
    iovec& last = parts.back();
    if (static_cast<std::byte*>(last.iov_base) + last.iov_len == page) {
      last.iov_len += kPage;
      return;
    }
  }
  parts.push_back({page, kPage});
}

uint32_t checksum_of(std::span<const iovec> parts) {
  uint32_t sum = 0;
  for (const iovec& part : parts)
    sum = crc32c({static_cast<const std::byte*>(part.iov_base), part.iov_len}, sum);
  return sum;
}

}  // namespace

PageSender::PageSender(FrameLink& link, std::vector<RamView> ram, PageChecksum checksum)
    : link_(link), ram_(std::move(ram)), leaving_(ram_), checksum_(checksum) {}

Result<std::unique_ptr<PageSender>> PageSender::create(FrameLink& link, std::vector<RamView> ram,
                                                       PageChecksum checksum) {
  std::unique_ptr<PageSender> sender(new PageSender(link, std::move(ram), checksum));
  if (checksum == PageChecksum::kYes)
    sender->copy_ = TRY(internal::make_buffer<std::byte>(kMaxFramePages * kPage));
  return sender;
}

// Looks at each page once, and says where what is to be sent lies.
void PageSender::sort_out(const DirtyPages& batch) {
  normal_.clear();
  zero_.clear();
  parts_.clear();
  std::byte* const ram = ram_[batch.block].bytes.data();
  leaving_.begin(batch.block);
  for (const uint32_t number : batch.pages) {
    if (leaving_.is_hole(number)) {
      zero_.push_back(number);
      continue;
    }
    std::byte* page = ram + number * kPage;
    if (checksum_ == PageChecksum::kYes) {
      std::byte* const copy = copy_.data() + normal_.size() * kPage;
      std::memcpy(copy, page, kPage);
      page = copy;
    }
    if (is_zero(page)) {
      zero_.push_back(number);
    } else {
      normal_.push_back(number);
      append(parts_, page);
    }
  }
}

Result<PageCounts> PageSender::send(const DirtyPages& batch) {
  RHEA_CHECK(batch.pages.size() <= kMaxFramePages, "{} pages for one frame", batch.pages.size());
  sort_out(batch);
  WirePages wire;
  wire.block = batch.block;
  wire.normal = static_cast<uint16_t>(normal_.size());
  wire.zero = static_cast<uint16_t>(zero_.size());
  wire.has_checksum = checksum_ == PageChecksum::kYes ? 1 : 0;
  wire.checksum = checksum_ == PageChecksum::kYes ? checksum_of(parts_) : 0;
  std::vector<uint8_t> payload(sizeof wire + batch.pages.size() * sizeof(le32));
  std::memcpy(payload.data(), &wire, sizeof wire);
  size_t at = sizeof wire;
  for (const auto* numbers : {&normal_, &zero_}) {
    for (const uint32_t number : *numbers) {
      const le32 wire_number = number;
      std::memcpy(payload.data() + at, &wire_number, sizeof wire_number);
      at += sizeof wire_number;
    }
  }
  TRY(link_.send(FrameKind::kPages, payload));
  TRY(link_.channel().write(std::span(parts_)));
  return PageCounts{normal_.size(), zero_.size()};
}

PageReceiver::PageReceiver(FrameLink& link,
                           const std::vector<std::shared_ptr<memory::RamBlock>>& blocks)
    : link_(link), blocks_(blocks), ram_(arriving_views(blocks)) {}

Result<void> PageReceiver::read_numbers(uint32_t block, std::span<const uint8_t> numbers) {
  numbers_.resize(numbers.size() / sizeof(le32));
  if (!numbers_.empty()) std::memcpy(numbers_.data(), numbers.data(), numbers.size());
  memory::RamBlock& ram = *blocks_[block];
  for (const le32& number : numbers_)
    if (number >= ram.dirty().pages())
      return fail(ErrorKind::kCorrupt, "Page {} of RAM block '{}', which has {}", number.value(),
                  ram.name(), ram.dirty().pages());
  return ok();
}

// Where `pages` are to be stored, and room for them.
Result<void> PageReceiver::prepare(uint32_t block, std::span<const le32> pages) {
  parts_.clear();
  for (size_t i = 0, run = 1; i < pages.size(); i += run, run = 1) {
    while (i + run < pages.size() && pages[i + run] == pages[i] + run) ++run;
    TRY(ram_.make_room(block, pages[i], static_cast<uint32_t>(run)));
    parts_.push_back({ram_.page(block, pages[i]), run * kPage});
  }
  return ok();
}

Result<PageCounts> PageReceiver::receive(std::span<const uint8_t> payload) {
  WirePages wire;
  if (payload.size() < sizeof wire)
    return fail(ErrorKind::kCorrupt, "A list of pages of {} bytes", payload.size());
  std::memcpy(&wire, payload.data(), sizeof wire);
  const auto numbers = payload.subspan(sizeof wire);
  const size_t normal = wire.normal;
  const size_t pages = normal + wire.zero;
  if (wire.block >= blocks_.size() || pages > kMaxFramePages || wire.has_checksum > 1 ||
      numbers.size() != pages * sizeof(le32))
    return fail(ErrorKind::kCorrupt, "A list of {} pages of RAM block {} in {} bytes", pages,
                wire.block.value(), payload.size());
  TRY(read_numbers(wire.block, numbers));
  TRY(ram_.clear(wire.block, std::span(numbers_).subspan(normal)));
  TRY(prepare(wire.block, std::span(numbers_).first(normal)));
  std::vector<iovec> parts = parts_;  // read() uses its own up
  TRY(link_.channel().read(std::span(parts)));
  if (wire.has_checksum == 1 && checksum_of(parts_) != wire.checksum)
    return fail(ErrorKind::kCorrupt, "Pages of RAM block '{}' have another checksum than they say",
                blocks_[wire.block]->name());
  return PageCounts{normal, pages - normal};
}

}  // namespace rhea::migration
