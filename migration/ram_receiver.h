// RamReceiver: the other end of a RamSender.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "memory/ram_block.h"
#include "migration/cancel.h"
#include "migration/channel.h"
#include "migration/frame_link.h"
#include "migration/messages.h"
#include "migration/multifd_receiver.h"
#include "migration/page_stream.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/mutex.h"

namespace rhea::migration {

/// Connections that have come beside the first one.
/// Thread: put() on main; the rest on the thread that receives.
class ChannelMailbox {
 public:
  static Result<std::unique_ptr<ChannelMailbox>> create();

  void put(std::unique_ptr<Channel> channel);
  /// The oldest; null if there is none.
  std::unique_ptr<Channel> take();
  /// Readable when there may be one.
  int fd() const noexcept { return event_.get(); }

 private:
  explicit ChannelMailbox(Fd event) : event_(std::move(event)) {}
  Guarded<std::vector<std::unique_ptr<Channel>>> channels_;
  const Fd event_;
};

/// Thread: one; error() from any. `cancel`: that of the main connection and of all channels: an
/// error on one of them ends what waits on another.
class RamReceiver {
 public:
  /// `blocks`: by the numbers that the source gives them. `channels`: those that will come beside
  /// the main connection, of `session`.
  static Result<std::unique_ptr<RamReceiver>> create(
      FrameLink& link, const std::vector<std::shared_ptr<memory::RamBlock>>& blocks,
      unsigned channels, uint64_t session, std::shared_ptr<Cancel> cancel);

  /// Waits until the channels are there. What comes in by mistake is sent away. Errors: the source
  /// has gone.
  Result<void> take_channels(ChannelMailbox& mailbox);
  /// A frame of pages.
  Result<void> receive(std::span<const uint8_t> payload);
  /// All of the pass is in guest RAM when this returns.
  Result<void> end_pass(const Sync& sync);
  /// After the last pass.
  Result<void> finish();

  PageCounts counts() const;
  /// The first one of a channel, if there was one.
  std::optional<Error> error() const;

 private:
  RamReceiver(FrameLink& link, std::unique_ptr<PageReceiver> pages,
              std::unique_ptr<MultifdReceiver> channels)
      : link_(link), pages_(std::move(pages)), channels_(std::move(channels)) {}

  FrameLink& link_;
  const std::unique_ptr<PageReceiver> pages_;  // the one or the other
  const std::unique_ptr<MultifdReceiver> channels_;
  PageCounts counts_;  // of the main connection
};

}  // namespace rhea::migration
