// PageStream: pages of RAM on the main connection.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "memory/ram_block.h"
#include "migration/arriving_ram.h"
#include "migration/frame_link.h"
#include "migration/leaving_ram.h"
#include "migration/ram_scan.h"
#include "util/error.h"

namespace rhea::migration {

enum class PageChecksum : bool { kNo, kYes };

/// What was sent or received, in pages.
struct PageCounts {
  uint64_t normal = 0;
  uint64_t zero = 0;
};

/// The most pages of one frame.
inline constexpr size_t kMaxFramePages = 512;

/// Sends pages out of guest RAM, without copying them. Those that hold zeros only are named, and
/// nothing more.
///
/// A page that the guest writes meanwhile may go out as zero though it no longer is, or half old,
/// half new. That does no harm: it is dirty again, so it is sent again, and the last time the guest
/// stands still. With a checksum a page is copied first: the sum must be of what is sent.
/// Thread: one. Units: pages of memory::kDirtyPageBytes.
class PageSender {
 public:
  /// Errors: kResource.
  static Result<std::unique_ptr<PageSender>> create(FrameLink& link, std::vector<RamView> ram,
                                                    PageChecksum checksum);

  /// At most kMaxFramePages.
  Result<PageCounts> send(const DirtyPages& batch);

 private:
  PageSender(FrameLink& link, std::vector<RamView> ram, PageChecksum checksum);
  void sort_out(const DirtyPages& batch);

  FrameLink& link_;
  const std::vector<RamView> ram_;
  LeavingRam leaving_;
  const PageChecksum checksum_;
  std::vector<uint32_t> normal_, zero_;
  std::vector<iovec> parts_;
  std::vector<std::byte> copy_;
};

/// Puts what comes where it belongs: straight into guest RAM.
/// Thread: one. `blocks`: by the numbers that the source gives them.
/// Errors: kCorrupt, names the block and the page; nothing was written outside of RAM. Those of an
/// ArrivingRam.
class PageReceiver {
 public:
  PageReceiver(FrameLink& link, const std::vector<std::shared_ptr<memory::RamBlock>>& blocks);

  /// `payload`: of the frame; the pages are read behind it.
  Result<PageCounts> receive(std::span<const uint8_t> payload);

 private:
  Result<void> read_numbers(uint32_t block, std::span<const uint8_t> numbers);
  Result<void> prepare(uint32_t block, std::span<const le32> pages);

  FrameLink& link_;
  const std::vector<std::shared_ptr<memory::RamBlock>> blocks_;
  ArrivingRam ram_;
  std::vector<le32> numbers_;
  std::vector<iovec> parts_;
};

}  // namespace rhea::migration
