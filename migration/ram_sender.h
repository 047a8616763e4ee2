// RamSender: the pages of a migration, on the main connection or on channels beside it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "memory/ram_block.h"
#include "migration/bandwidth_limit.h"
#include "migration/frame_link.h"
#include "migration/multifd_sender.h"
#include "migration/page_stream.h"
#include "migration/ram_scan.h"
#include "util/error.h"

namespace rhea::migration {

struct RamOptions {
  unsigned channels = 0;  ///< beside the main connection; 0: the pages go there
  PacketOptions::Compression compression = PacketOptions::Compression::kNone;  ///< on channels
  int zstd_level = 1;
  PageChecksum checksum = PageChecksum::kNo;
};

/// Thread: one; cancel() and the figures from any.
class RamSender {
 public:
  /// `blocks` outlive it. `connect`: opens one more channel; `session`: what it says first.
  /// `limit`: of the channels.
  static Result<std::unique_ptr<RamSender>> create(
      FrameLink& link, const std::vector<std::shared_ptr<memory::RamBlock>>& blocks,
      const RamOptions& options, uint64_t session, std::shared_ptr<BandwidthLimit> limit,
      MultifdSender::Connect connect);

  /// At most kMaxFramePages, each once between two ends of a pass.
  Result<void> send(const DirtyPages& batch);
  /// All pages of the pass are on their way, and none of the next one's will overtake them.
  Result<void> end_pass(uint64_t pass);
  /// After the last pass: the channels end.
  Result<void> finish();

  void cancel();
  PageCounts counts() const;
  /// On each channel, if there are any; those of the main connection are counted there.
  std::vector<uint64_t> channel_bytes() const;

 private:
  RamSender(FrameLink& link, std::unique_ptr<PageSender> pages,
            std::unique_ptr<MultifdSender> channels);

  FrameLink& link_;
  // One of the two.
  const std::unique_ptr<PageSender> pages_;
  const std::unique_ptr<MultifdSender> channels_;
  std::atomic<uint64_t> normal_ = 0, zero_ = 0;
};

}  // namespace rhea::migration
