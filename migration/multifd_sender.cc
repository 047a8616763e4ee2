#include "migration/multifd_sender.h"

#include <algorithm>
#include <utility>

#include "util/check.h"
#include "util/log.h"
#include "util/sync_point.h"

namespace rhea::migration {

Result<std::unique_ptr<MultifdSender>> MultifdSender::create(Config config, Connect connect) {
  RHEA_CHECK(config.channels >= 1 && config.channels <= kMaxChannels);
  TRY(check_ram(config.ram));
  auto cancel = TRY(Cancel::create());
  std::unique_ptr<MultifdSender> sender(
      new MultifdSender(std::move(config), std::move(connect), std::move(cancel)));
  TRY(sender->start_threads());
  return sender;
}

MultifdSender::MultifdSender(Config config, Connect connect, std::shared_ptr<Cancel> cancel)
    : config_(std::move(config)),
      connect_(std::move(connect)),
      cancel_(std::move(cancel)),
      idle_(config_.channels) {
  for (unsigned i = 0; i < config_.channels; ++i) {
    channels_.push_back(std::make_unique<ChannelState>());
    channels_.back()->index = i;
  }
}

Result<void> MultifdSender::start_threads() {
  for (const auto& channel : channels_) {
    // Where the host gives fewer threads, the destructor ends those that are there; the others'
    // tokens lie untouched.
    channel->thread = TRY(Thread::start(fmt::format("mig/send-{}", channel->index),
                                        [this, state = channel.get()] { run(*state); }));
  }
  return ok();
}

MultifdSender::~MultifdSender() {
  if (finished_) return;
  cancel();
  join();
}

// ---------------------------------------------------------------- the migration thread

Error MultifdSender::first_error() const {
  return error_.with([](const std::optional<Error>& error) { return *error; });
}

std::optional<Error> MultifdSender::error() const {
  return error_.with([](const std::optional<Error>& error) { return error; });
}

Result<void> MultifdSender::take_idle_token() {
  RHEA_SYNC_POINT("multifd sender: before the wait for a token");
  const bool token = idle_.wait();
  RHEA_SYNC_POINT("multifd sender: after the wait for a token");
  if (!stopped()) {
    RHEA_CHECK(token, "the end of a wait without an end of the channels");
    return ok();
  }
  if (token) idle_.post();  // I2: it buys nothing any more
  return first_error();
}

/// The one that has carried least, so that one which was busy for long catches up. Nobody waits for
/// it: a path that is slower than the others carries less.
MultifdSender::ChannelState& MultifdSender::find_free_channel() {
  ChannelState* least = nullptr;
  uint64_t least_bytes = 0;
  for (const auto& channel : channels_) {
    // acquire: pairs with the release store in do_job(), and the exchange in take_back_job(); the
    // batch is ours
    if (channel->job.load(std::memory_order_acquire) != JobSlot::kEmpty) continue;
    // relaxed: all of its jobs are done, and who writes a sync's few bytes does not matter
    const uint64_t bytes = channel->bytes.load(std::memory_order_relaxed);
    if (least != nullptr && bytes >= least_bytes) continue;
    least = channel.get();
    least_bytes = bytes;
  }
  RHEA_CHECK(least != nullptr, "a token, and no channel without a job");  // I2
  return *least;
}

Result<void> MultifdSender::hand_out_batch() {
  TRY(take_idle_token());
  ChannelState& channel = find_free_channel();
  std::swap(channel.batch, batch_);
  batch_.count = 0;
  // Everything that crosses leave() is seq_cst: either it sees our slot, or we see it dead.
  channel.job.store(JobSlot::kFull);
  RHEA_SYNC_POINT("multifd sender: before a job's post");
  channel.work.post();
  RHEA_SYNC_POINT("multifd sender: after a job's post");
  if (channel.state.load() == State::kDead) take_back_job(channel);
  return ok();
}

Result<void> MultifdSender::queue_page(uint32_t block, uint32_t page) {
  RHEA_CHECK(!finished_ && block < config_.ram.size() && page < config_.ram[block].pages());
  if (batch_.count == kPacketPages || (batch_.count != 0 && batch_.block != block)) {
    TRY(hand_out_batch());
  }
  batch_.block = block;
  batch_.pages[batch_.count++] = page;
  return ok();
}

Result<void> MultifdSender::request_sync(ChannelState& channel, SyncSlot kind, uint64_t number) {
  TRY(take_idle_token());
  RHEA_CHECK(channel.sync.load() == SyncSlot::kEmpty, "two syncs on one channel");  // I6
  channel.sync_number = number;
  channel.sync.store(kind);
  RHEA_SYNC_POINT("multifd sender: before a sync's post");
  channel.work.post();
  RHEA_SYNC_POINT("multifd sender: after a sync's post");
  if (channel.state.load() == State::kDead) take_back_sync(channel);
  return ok();
}

Result<uint64_t> MultifdSender::sync(SyncKind kind) {
  RHEA_CHECK(!finished_);
  if (batch_.count != 0) TRY(hand_out_batch());
  const auto slot = kind == SyncKind::kAll ? SyncSlot::kAll : SyncSlot::kLocal;
  if (kind == SyncKind::kAll) ++syncs_;
  // A token for each request, as for a job; the slot is that of a certain channel, which may still
  // have a job before it.
  for (const auto& channel : channels_) TRY(request_sync(*channel, slot, syncs_));
  for (const auto& channel : channels_) {
    RHEA_SYNC_POINT("multifd sender: before the wait for a sync");
    const bool done = channel->done.wait();
    RHEA_SYNC_POINT("multifd sender: after the wait for a sync");
    if (stopped()) return first_error();
    RHEA_CHECK(done);
  }
  const unsigned tokens = idle_.tokens();
  RHEA_CHECK(tokens == channels_.size(), "{} idle tokens, {} channels", tokens,
             channels_.size());  // I2
  RHEA_TRACE(kMigration, "multifd_send_sync kind={} number={}", static_cast<int>(slot), syncs_);
  return syncs_;
}

void MultifdSender::join() {
  for (const auto& channel : channels_) channel->work.close();
  for (const auto& channel : channels_) {
    if (channel->thread.joinable()) channel->thread.join();
  }
  finished_ = true;
  const unsigned tokens = idle_.tokens();
  RHEA_CHECK(tokens == channels_.size(), "{} idle tokens, {} channels", tokens,
             channels_.size());  // I2
}

Result<void> MultifdSender::finish() {
  RHEA_CHECK(!finished_);
  RHEA_CHECK(batch_.count == 0 || stopped(), "finished with pages that were not sent");
  join();
  if (stopped()) return first_error();
  return ok();
}

// ---------------------------------------------------------------- a channel's thread

void MultifdSender::run(ChannelState& channel) { leave(channel, serve(channel)); }

Result<MultifdSender::Connection> MultifdSender::open(ChannelState& channel) {
  Connection connection;
  RHEA_SYNC_POINT("multifd sender: before connecting");
  connection.channel = TRY(connect_(channel.index, cancel_));
  connection.writer = TRY(PacketWriter::create(channel.index, config_.ram, config_.packets));
  connection.channel->count_into(&channel.bytes);
  TRY(connection.channel->limit_by(config_.limit));
  TRY(connection.writer->hello(*connection.channel, config_.session));
  return connection;
}

Result<void> MultifdSender::serve(ChannelState& channel) {
  Connection connection = TRY(open(channel));
  for (;;) {
    RHEA_SYNC_POINT("multifd sender: before the wait for work");
    const bool work = channel.work.wait();
    RHEA_SYNC_POINT("multifd sender: after the wait for work");
    if (!work || stopped()) return ok();
    channel.state.store(State::kBusy);
    // acquire: pairs with the store in hand_out_batch(); a job goes before a sync (I5)
    if (channel.job.load(std::memory_order_acquire) == JobSlot::kFull) {
      TRY(do_job(channel, connection));
    } else {
      TRY(do_sync(channel, connection));
    }
  }
}

Result<void> MultifdSender::do_job(ChannelState& channel, Connection& connection) {
  const auto written = TRY(connection.writer->pages(*connection.channel, channel.batch));
  // relaxed: figures for people
  channel.normal_pages.fetch_add(written.normal_pages, std::memory_order_relaxed);
  channel.empty_pages.fetch_add(written.empty_pages, std::memory_order_relaxed);
  channel.state.store(State::kIdle);
  // release: pairs with the acquire in find_free_channel(); the batch was ours until here
  channel.job.store(JobSlot::kEmpty, std::memory_order_release);
  RHEA_SYNC_POINT("multifd sender: before a token's post");
  idle_.post();  // after the slot: a token promises that a scan finds it
  RHEA_SYNC_POINT("multifd sender: after a token's post");
  return ok();
}

Result<void> MultifdSender::do_sync(ChannelState& channel, Connection& connection) {
  // acquire: pairs with the store in request_sync()
  const SyncSlot kind = channel.sync.load(std::memory_order_acquire);
  RHEA_CHECK(kind != SyncSlot::kEmpty, "woken for nothing");  // I6
  if (kind == SyncSlot::kAll) {
    RHEA_SYNC_POINT("multifd sender: before a sync packet");
    TRY(connection.writer->sync(*connection.channel, channel.sync_number));
  }
  channel.state.store(State::kIdle);
  // release: pairs with the load in request_sync(), which expects it empty
  channel.sync.store(SyncSlot::kEmpty, std::memory_order_release);
  idle_.post();  // before `done`: who has seen all of these finds all tokens
  RHEA_SYNC_POINT("multifd sender: before a sync's done");
  channel.done.post();
  RHEA_SYNC_POINT("multifd sender: after a sync's done");
  return ok();
}

void MultifdSender::leave(ChannelState& channel, Result<void> why) {
  RHEA_SYNC_POINT("multifd sender: leaving");
  // The end comes before the answers: a sync that sees no end counts tokens, and one of ours might
  // still be on its way back.
  if (!why) {
    stop(std::move(why).error().context(fmt::format("multifd channel {}", channel.index)));
  }
  channel.state.store(State::kDead);
  RHEA_SYNC_POINT("multifd sender: dead");
  take_back_job(channel);
  take_back_sync(channel);
}

// ---------------------------------------------------------------- any

/// Answers what a dead channel will not do: by the channel when it dies, and by the migration
/// thread when it finds that what it gave came too late. An exchange lets one of them have it.
void MultifdSender::take_back_job(ChannelState& channel) {
  if (channel.job.exchange(JobSlot::kEmpty) != JobSlot::kFull) return;
  RHEA_SYNC_POINT("multifd sender: a job taken back, before its token's post");
  idle_.post();
}

void MultifdSender::take_back_sync(ChannelState& channel) {
  if (channel.sync.exchange(SyncSlot::kEmpty) != SyncSlot::kEmpty) {
    idle_.post();
    channel.done.post();
  }
}

void MultifdSender::stop(Error why) {
  error_.with([&](std::optional<Error>& error) {
    if (!error) error = std::move(why);
  });
  stopped_.store(true);  // before the waits end: who wakes up looks at it
  cancel_->cancel();
  idle_.close();
  for (const auto& channel : channels_) {
    channel->work.close();
    channel->done.close();
  }
}

void MultifdSender::cancel() { stop(Error(ErrorKind::kCancelled, "migration was cancelled")); }

MultifdStats MultifdSender::stats() const {
  MultifdStats sum;
  for (const auto& channel : channels_) {
    // relaxed: figures for people
    sum.bytes += channel->bytes.load(std::memory_order_relaxed);
    sum.normal_pages += channel->normal_pages.load(std::memory_order_relaxed);
    sum.empty_pages += channel->empty_pages.load(std::memory_order_relaxed);
  }
  return sum;
}

std::vector<uint64_t> MultifdSender::bytes_per_channel() const {
  std::vector<uint64_t> bytes;
  for (const auto& channel : channels_) {
    bytes.push_back(channel->bytes.load(std::memory_order_relaxed));
  }
  return bytes;
}

unsigned MultifdSender::busy_channels() const {
  const auto busy = std::ranges::count_if(
      channels_, [](const auto& channel) { return channel->state.load() == State::kBusy; });
  return static_cast<unsigned>(busy);
}

}  // namespace rhea::migration
