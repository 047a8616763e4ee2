// MultifdReceiver: the other end of a MultifdSender's channels.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "migration/arriving_ram.h"
#include "migration/cancel.h"
#include "migration/channel.h"
#include "migration/packet_reader.h"
#include "migration/sync_barrier.h"
#include "util/error.h"
#include "util/mutex.h"
#include "util/thread.h"

namespace rhea::migration {

/// One thread per channel, which stores pages into guest RAM until the channel ends.
///
/// Thread: one adds channels, waits and finishes (the incoming thread); cancel() and error() from
/// any. Owns: the channels and their threads.
/// Invariants: after wait_sync(k), all pages that were queued before the sender's sync k are in
/// guest RAM, and none of them is stored later: a channel that has come to sync k goes on when all
/// have. Errors: the first thing that went wrong on any channel, naming it; kCancelled after
/// cancel().
class MultifdReceiver {
 public:
  struct Config {
    unsigned channels = 1;  ///< 1 .. kMaxChannels
    uint64_t session = 0;   ///< a hello must say the same
    std::vector<RamView> ram;
    /// The switch of all channels that will be added.
    std::shared_ptr<Cancel> cancel;
    /// A bad twin for a test: channels do not wait for each other.
    enum class Rounds : uint8_t { kInOrder, kUnorderedForTest } rounds = Rounds::kInOrder;
  };

  static Result<std::unique_ptr<MultifdReceiver>> create(Config config);
  /// Cancels what is not finished.
  ~MultifdReceiver();
  MultifdReceiver(const MultifdReceiver&) = delete;
  MultifdReceiver& operator=(const MultifdReceiver&) = delete;

  /// Takes a channel whose hello was read, and starts on it. Errors: kCorrupt for a hello of
  /// another session, of a number that there is not, or that is there already.
  Result<void> add(const MultifdHello& hello, std::unique_ptr<Channel> channel);
  unsigned missing_channels() const noexcept { return config_.channels - added_; }

  /// Sleeps until all channels have come to the sender's sync `number`, or one can not any more.
  Result<void> wait_sync(uint64_t number);

  /// After the last sync: waits until the sender has ended all channels.
  Result<void> finish();

  /// Throws the switch.
  void cancel();
  std::optional<Error> error() const;

  struct Stats {
    uint64_t normal_pages = 0;
    uint64_t empty_pages = 0;
  };
  Stats stats() const noexcept;

 private:
  struct ChannelState {
    std::unique_ptr<Channel> channel;
    Thread thread;
  };

  explicit MultifdReceiver(Config config);
  void run(unsigned index);
  Result<void> serve(unsigned index);
  void stop(Error why);
  Error first_error() const;
  void join();

  const Config config_;
  ArrivingRam ram_;
  SyncBarrier barrier_;
  std::vector<ChannelState> channels_;
  unsigned added_ = 0;
  bool finished_ = false;
  std::atomic<uint64_t> normal_pages_ = 0;
  std::atomic<uint64_t> empty_pages_ = 0;
  Guarded<std::optional<Error>> error_;
};

}  // namespace rhea::migration
