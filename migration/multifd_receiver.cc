#include "migration/multifd_receiver.h"

#include <utility>

#include "util/check.h"
#include "util/sync_point.h"

namespace rhea::migration {

Result<std::unique_ptr<MultifdReceiver>> MultifdReceiver::create(Config config) {
  RHEA_CHECK(config.channels >= 1 && config.channels <= kMaxChannels);
  RHEA_CHECK(config.cancel != nullptr);
  TRY(check_ram(config.ram));
  return std::unique_ptr<MultifdReceiver>(new MultifdReceiver(std::move(config)));
}

MultifdReceiver::MultifdReceiver(Config config)
    : config_(std::move(config)),
      ram_(config_.ram),
      barrier_(config_.channels),
      channels_(config_.channels) {}

MultifdReceiver::~MultifdReceiver() {
  if (finished_) return;
  cancel();
  join();
}

Result<void> MultifdReceiver::add(const MultifdHello& hello, std::unique_ptr<Channel> channel) {
  RHEA_CHECK(!finished_);
  if (hello.session != config_.session) {
    return fail(ErrorKind::kCorrupt, "a multifd channel of another migration");
  }
  if (hello.channel >= channels_.size()) {
    return fail(ErrorKind::kCorrupt, "multifd channel {} of {}", hello.channel, channels_.size());
  }
  ChannelState& state = channels_[hello.channel];
  if (state.channel != nullptr) {
    return fail(ErrorKind::kCorrupt, "multifd channel {} comes twice", hello.channel);
  }
  state.channel = std::move(channel);
  ++added_;
  auto thread = Thread::start(fmt::format("mig/recv-{}", hello.channel),
                              [this, index = hello.channel] { run(index); });
  if (!thread) {
    stop(thread.error());
    return std::move(thread).error();
  }
  state.thread = std::move(*thread);
  return ok();
}

/// The one way out of a channel's thread: whoever waits for it learns that it is gone.
void MultifdReceiver::run(unsigned index) {
  auto why = serve(index);
  if (!why) {
    stop(std::move(why).error().context(fmt::format("multifd channel {}", index)));
    // A sender that waits for room in this socket would wait as long as we are there.
    channels_[index].channel->shutdown();
  }
  barrier_.leave(index);
}

Result<void> MultifdReceiver::serve(unsigned index) {
  using Event = PacketReader::Received::Event;
  Channel& channel = *channels_[index].channel;
  PacketReader reader(index, ram_);
  for (;;) {
    const auto received = TRY(reader.next(channel));
    switch (received.event) {
      case Event::kEnded:
        return ok();
      case Event::kPages:
        // relaxed: figures for people
        normal_pages_.fetch_add(received.normal_pages, std::memory_order_relaxed);
        empty_pages_.fetch_add(received.empty_pages, std::memory_order_relaxed);
        break;
      case Event::kSync:
        RHEA_SYNC_POINT("multifd receiver: before a sync");
        barrier_.note(index, received.sync);
        if (config_.rounds == Config::Rounds::kInOrder && !barrier_.wait_all(received.sync)) {
          return fail(ErrorKind::kIo, "sync {}: another channel ended before", received.sync);
        }
        break;
    }
  }
}

void MultifdReceiver::stop(Error why) {
  error_.with([&](std::optional<Error>& error) {
    if (!error) error = std::move(why);
  });
  config_.cancel->cancel();
  barrier_.stop();
}

void MultifdReceiver::cancel() { stop(Error(ErrorKind::kCancelled, "migration was cancelled")); }

std::optional<Error> MultifdReceiver::error() const {
  return error_.with([](const std::optional<Error>& error) { return error; });
}

Error MultifdReceiver::first_error() const {
  return error().value_or(Error(ErrorKind::kIo, "a multifd channel ended too early"));
}

Result<void> MultifdReceiver::wait_sync(uint64_t number) {
  if (!barrier_.wait_all(number)) {
    return first_error().context(fmt::format("waiting for sync {}", number));
  }
  return ok();
}

void MultifdReceiver::join() {
  for (ChannelState& state : channels_) {
    if (state.thread.joinable()) state.thread.join();
  }
  finished_ = true;
}

Result<void> MultifdReceiver::finish() {
  RHEA_CHECK(!finished_);
  join();
  if (auto failed = error()) return *failed;
  return ok();
}

MultifdReceiver::Stats MultifdReceiver::stats() const noexcept {
  // relaxed: figures for people
  return {normal_pages_.load(std::memory_order_relaxed),
          empty_pages_.load(std::memory_order_relaxed)};
}

}  // namespace rhea::migration
