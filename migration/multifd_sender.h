// MultifdSender: pages of guest RAM, sent over several channels at once.
//
// One thread, the migration thread, hands out pages; each channel has a thread that sends them.
// What goes between the two is a slot for a batch of pages and a slot for a sync, each given by the
// migration thread when it is empty and emptied by the channel when the work is done, and the
// channel's `work` and `done` semaphores. `idle` counts tokens for the migration thread to sleep
// on.
//
// The rules, whose numbers are those of the model (tests/models/multifd.pml):
//   I1  a batch belongs to the migration thread while its job slot is empty, to the channel while
//   it
//       is full; the slot's release and acquire hand it over
//   I2  idle tokens + full slots + a token in the migration thread's hand = channels, always. So
//       between two calls there are as many tokens as empty job slots, and a token is a promise
//       that a scan finds one. It is anonymous: whose it is, only the scan says
//   I3  each sync request is answered once by each channel, also by one that dies
//   I4  whoever dies, for whatever reason, leaves by one function, which ends all waits for good:
//       the migration thread never waits for a token alone, but for "a token, or the end"
//   I5  a channel sends a sync after the pages that it was given before it
//   I6  a sync slot is filled when it is empty; a channel that is woken finds one slot full
// I2 is checked after each sync and at the end, in every build.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "migration/bandwidth_limit.h"
#include "migration/cancel.h"
#include "migration/channel.h"
#include "migration/multifd_packet.h"
#include "migration/packet_writer.h"
#include "util/error.h"
#include "util/mutex.h"
#include "util/semaphore.h"
#include "util/thread.h"

namespace rhea::migration {

struct MultifdStats {
  uint64_t bytes = 0;  ///< taken by the host, headers included
  uint64_t normal_pages = 0;
  uint64_t empty_pages = 0;
};

/// Thread: one hands out pages and syncs, and finishes (the migration thread); cancel(), error()
/// and the figures from any. A migration makes its own: nothing is left over from the one before.
/// Owns: the channels and their threads. Invariants: see the top of the file.
/// Errors: the first thing that went wrong on any channel, naming it; each call after it returns it
/// at once. kCancelled after cancel().
class MultifdSender {
 public:
  struct Config {
    unsigned channels = 1;  ///< 1 .. kMaxChannels
    uint64_t session = 0;   ///< tells the channels of one migration from another's
    std::vector<RamView> ram;
    PacketOptions packets;
    std::shared_ptr<BandwidthLimit> limit;  ///< may be null
  };
  /// Connects channel `n`; called on its own thread, so that one slow peer delays only itself. The
  /// channel must be made with `cancel`.
  using Connect =
      std::function<Result<std::unique_ptr<Channel>>(unsigned n, std::shared_ptr<Cancel> cancel)>;

  /// Starts the threads. Pages may be queued at once: they wait for the connection.
  static Result<std::unique_ptr<MultifdSender>> create(Config config, Connect connect);
  /// Cancels what is not finished.
  ~MultifdSender();
  MultifdSender(const MultifdSender&) = delete;
  MultifdSender& operator=(const MultifdSender&) = delete;

  /// Queues a page, whose dirty bit has been cleared before. Sleeps while all channels are busy.
  /// Between two kAll syncs a page is queued once: two channels might swap its copies.
  Result<void> queue_page(uint32_t block, uint32_t page);

  enum class SyncKind : uint8_t {
    kLocal = 1,  ///< all that was queued has been read from guest RAM and left
    kAll,        ///< and the destination stores nothing of it after anything that is queued later
  };
  /// Sends what is queued, and waits for all channels. Returns the number of the last kAll sync,
  /// this one's if it is one: the main stream tells it to the receiver
  /// (MultifdReceiver::wait_sync).
  Result<uint64_t> sync(SyncKind kind);

  /// Ends the channels after their work, and waits for that. Nothing is queued any more: there was
  /// a sync, or an error. The figures stay.
  Result<void> finish();

  void cancel();
  /// The first error, if there was one.
  std::optional<Error> error() const;

  MultifdStats stats() const;
  std::vector<uint64_t> bytes_per_channel() const;
  /// Channels that are sending at the moment.
  unsigned busy_channels() const;

 private:
  enum class State : uint8_t { kIdle, kBusy, kDead };
  enum class JobSlot : uint8_t { kEmpty, kFull };
  enum class SyncSlot : uint8_t { kEmpty, kLocal, kAll };

  struct ChannelState {
    unsigned index = 0;
    Semaphore work;
    Semaphore done;
    std::atomic<State> state = State::kIdle;
    std::atomic<JobSlot> job = JobSlot::kEmpty;
    std::atomic<SyncSlot> sync = SyncSlot::kEmpty;
    PageBatch batch;           // I1
    uint64_t sync_number = 0;  // as the sync slot
    std::atomic<uint64_t> bytes = 0;
    std::atomic<uint64_t> normal_pages = 0;
    std::atomic<uint64_t> empty_pages = 0;
    Thread thread;
  };
  struct Connection {
    std::unique_ptr<Channel> channel;
    std::unique_ptr<PacketWriter> writer;
  };

  MultifdSender(Config config, Connect connect, std::shared_ptr<Cancel> cancel);
  Result<void> start_threads();

  // The migration thread.
  Result<void> take_idle_token();
  Result<void> hand_out_batch();
  ChannelState& find_free_channel();
  Result<void> request_sync(ChannelState& channel, SyncSlot kind, uint64_t number);
  Error first_error() const;
  void join();

  // A channel's thread.
  void run(ChannelState& channel);
  Result<void> serve(ChannelState& channel);
  Result<Connection> open(ChannelState& channel);
  Result<void> do_job(ChannelState& channel, Connection& connection);
  Result<void> do_sync(ChannelState& channel, Connection& connection);
  void leave(ChannelState& channel, Result<void> why);

  // Any.
  void take_back_job(ChannelState& channel);
  void take_back_sync(ChannelState& channel);
  void stop(Error why);
  bool stopped() const noexcept {
    // acquire: pairs with the store in stop()
    return stopped_.load(std::memory_order_acquire);
  }

  const Config config_;
  const Connect connect_;
  const std::shared_ptr<Cancel> cancel_;
  std::vector<std::unique_ptr<ChannelState>> channels_;
  Semaphore idle_;
  std::atomic<bool> stopped_ = false;
  Guarded<std::optional<Error>> error_;
  // The migration thread's.
  PageBatch batch_;
  uint64_t syncs_ = 0;
  bool finished_ = false;
};

}  // namespace rhea::migration
