#include "migration/ram_sender.h"

#include <utility>

#include "migration/messages.h"

namespace rhea::migration {

Result<std::unique_ptr<RamSender>> RamSender::create(
    FrameLink& link, const std::vector<std::shared_ptr<memory::RamBlock>>& blocks,
    const RamOptions& options, uint64_t session, std::shared_ptr<BandwidthLimit> limit,
    MultifdSender::Connect connect) {
  std::vector<RamView> ram;
  for (const auto& block : blocks) ram.push_back(ram_view(*block));
  std::unique_ptr<PageSender> pages;
  std::unique_ptr<MultifdSender> channels;
  if (options.channels == 0) {
    pages = TRY(PageSender::create(link, std::move(ram), options.checksum));
  } else {
    MultifdSender::Config config;
    config.channels = options.channels;
    config.session = session;
    config.ram = std::move(ram);
    config.packets.compression = options.compression;
    config.packets.zstd_level = options.zstd_level;
    if (options.checksum == PageChecksum::kYes)
      config.packets.checksum = PacketOptions::Checksum::kPayload;
    config.limit = std::move(limit);
    channels = TRY(MultifdSender::create(std::move(config), std::move(connect)));
  }
  return std::unique_ptr<RamSender>(new RamSender(link, std::move(pages), std::move(channels)));
}

RamSender::RamSender(FrameLink& link, std::unique_ptr<PageSender> pages,
                     std::unique_ptr<MultifdSender> channels)
    : link_(link), pages_(std::move(pages)), channels_(std::move(channels)) {}

Result<void> RamSender::send(const DirtyPages& batch) {
  if (channels_) {
    for (const uint32_t page : batch.pages) TRY(channels_->queue_page(batch.block, page));
    return ok();
  }
  const PageCounts sent = TRY(pages_->send(batch));
  // relaxed: figures for people
  normal_.fetch_add(sent.normal, std::memory_order_relaxed);
  zero_.fetch_add(sent.zero, std::memory_order_relaxed);
  return ok();
}

Result<void> RamSender::end_pass(uint64_t pass) {
  Sync sync{.pass = pass};
  if (channels_) sync.channel_sync = TRY(channels_->sync(MultifdSender::SyncKind::kAll));
  return link_.send_state(FrameKind::kSync, sync);
}

Result<void> RamSender::finish() { return channels_ ? channels_->finish() : ok(); }

void RamSender::cancel() {
  if (channels_) channels_->cancel();
}

PageCounts RamSender::counts() const {
  if (channels_) {
    const MultifdStats stats = channels_->stats();
    return {stats.normal_pages, stats.empty_pages};
  }
  return {normal_.load(std::memory_order_relaxed), zero_.load(std::memory_order_relaxed)};
}

std::vector<uint64_t> RamSender::channel_bytes() const {
  return channels_ ? channels_->bytes_per_channel() : std::vector<uint64_t>();
}

}  // namespace rhea::migration
