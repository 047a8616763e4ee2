#include "migration/ram_receiver.h"

#include <utility>

#include "util/log.h"

namespace rhea::migration {

Result<std::unique_ptr<ChannelMailbox>> ChannelMailbox::create() {
  Fd event = TRY(make_eventfd());
  return std::unique_ptr<ChannelMailbox>(new ChannelMailbox(std::move(event)));
}

void ChannelMailbox::put(std::unique_ptr<Channel> channel) {
  channels_.with([&](auto& channels) { channels.push_back(std::move(channel)); });
  signal_eventfd(event_.get());
}

std::unique_ptr<Channel> ChannelMailbox::take() {
  clear_eventfd(event_.get());  // first: one that comes behind the look is signalled again
  return channels_.with([](auto& channels) {
    std::unique_ptr<Channel> oldest;
    if (!channels.empty()) {
      oldest = std::move(channels.front());
      channels.erase(channels.begin());
    }
    return oldest;
  });
}

Result<std::unique_ptr<RamReceiver>> RamReceiver::create(
    FrameLink& link, const std::vector<std::shared_ptr<memory::RamBlock>>& blocks,
    unsigned channels, uint64_t session, std::shared_ptr<Cancel> cancel) {
  std::unique_ptr<MultifdReceiver> receiver;
  if (channels > kMaxChannels)
    return fail(ErrorKind::kCorrupt, "{} channels, at most {}", channels, kMaxChannels);
  if (channels != 0) {
    MultifdReceiver::Config config;
    config.channels = channels;
    config.session = session;
    config.ram = arriving_views(blocks);
    config.cancel = std::move(cancel);
    receiver = TRY(MultifdReceiver::create(std::move(config)));
  }
  std::unique_ptr<PageReceiver> pages;
  if (!receiver) pages = std::make_unique<PageReceiver>(link, blocks);
  return std::unique_ptr<RamReceiver>(new RamReceiver(link, std::move(pages), std::move(receiver)));
}

Result<void> RamReceiver::take_channels(ChannelMailbox& mailbox) {
  while (channels_ && channels_->missing_channels() != 0) {
    auto channel = mailbox.take();
    if (!channel) {
      TRY(link_.channel().wait_for(mailbox.fd()));
      continue;
    }
    const auto hello = read_hello(*channel);
    auto added = hello ? channels_->add(*hello, std::move(channel)) : Result<void>(hello.error());
    if (added) continue;
    if (error()) return *error();
    RHEA_LOG(kMigration, kWarn, "a connection is sent away: {}", added.error().message());
  }
  return ok();
}

Result<void> RamReceiver::receive(std::span<const uint8_t> payload) {
  if (channels_) return fail(ErrorKind::kCorrupt, "Pages on the main connection");
  const PageCounts counts = TRY(pages_->receive(payload));
  counts_.normal += counts.normal;
  counts_.zero += counts.zero;
  return ok();
}

Result<void> RamReceiver::end_pass(const Sync& sync) {
  if (!channels_) return ok();
  return channels_->wait_sync(sync.channel_sync);
}

Result<void> RamReceiver::finish() { return channels_ ? channels_->finish() : ok(); }

PageCounts RamReceiver::counts() const {
  if (!channels_) return counts_;
  const MultifdReceiver::Stats stats = channels_->stats();
  return {stats.normal_pages, stats.empty_pages};
}

std::optional<Error> RamReceiver::error() const {
  return channels_ ? channels_->error() : std::nullopt;
}

}  // namespace rhea::migration
